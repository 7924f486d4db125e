//! The files of Unix sockets: who may connect, which files are replaced, and which are removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::Path;
use std::thread;

use rustix::fs::{FlockOperation, flock};
use socketserver::{UnixDatagram, UnixStream};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .expect("a file")
        .permissions()
        .mode()
        & 0o7777
}

#[test]
fn the_mode_does_not_depend_on_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    for wanted in [0o600, 0o660, 0o666, 0o777, 0o000] {
        let (stream, datagram) = (directory.path().join("s"), directory.path().join("g"));
        let _bound = (
            UnixStream::options().mode(wanted).bind(&stream).unwrap(),
            UnixDatagram::options()
                .mode(wanted)
                .bind(&datagram)
                .unwrap(),
        );
        assert_eq!((mode(&stream), mode(&datagram)), (wanted, wanted));
    }
    // Without a mode, the umask applies, as to any new file.
    let (ours, plain) = (
        directory.path().join("ours"),
        directory.path().join("plain"),
    );
    let _bound = (
        UnixStream::options().bind(&ours).unwrap(),
        net::UnixListener::bind(&plain).unwrap(),
    );
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn the_owner_is_set_where_that_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let own = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let is_root = own.0 == 0;
    // Root may give the file to any user; other users only to themselves.
    let (uid, gid) = if is_root { (65_534, 65_533) } else { own };
    let bound = UnixStream::options()
        .owner(Some(uid), Some(gid))
        .mode(0o640)
        .bind(&path)
        .unwrap();
    let file = fs::symlink_metadata(&path).unwrap();
    assert_eq!((file.uid(), file.gid(), mode(&path)), (uid, gid, 0o640));
    drop(bound);
    if !is_root {
        let err = UnixStream::options()
            .owner(Some(0), None)
            .bind(&path)
            .unwrap_err();
        assert!(err.is_permission_denied(), "{err}");
    }
    // Without a mode, the umask applies after the owner was set.
    let plain = directory.path().join("plain");
    let _bound = (
        UnixStream::options()
            .owner(Some(uid), None)
            .bind(&path)
            .unwrap(),
        net::UnixListener::bind(&plain).unwrap(),
    );
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn a_listener_removes_its_file_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(UnixStream::options().bind(&path).unwrap());
    assert!(!path.exists());
    drop(UnixDatagram::options().bind(&path).unwrap());
    assert!(!path.exists());

    let listener = UnixStream::options().bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let successor = net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists(), "the successor's file is not ours to remove");
    drop(successor);
}

#[test]
fn a_file_that_a_dead_server_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = UnixStream::options().bind(&path).unwrap();
    assert!(net::UnixStream::connect(&path).is_ok());
    drop(listener);
    drop(net::UnixDatagram::bind(&path).unwrap());
    let socket = UnixDatagram::options().bind(&path).unwrap();
    assert!(net::UnixDatagram::unbound().unwrap().connect(&path).is_ok());
    drop(socket);
}

#[test]
fn a_live_server_is_an_error_even_with_a_full_backlog_or_another_type() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let live = UnixStream::options().backlog(0).bind(&path).unwrap();
    let _queued = net::UnixStream::connect(&path).unwrap();
    for err in [
        UnixStream::options().bind(&path).unwrap_err(),
        UnixDatagram::options().bind(&path).unwrap_err(),
    ] {
        assert!(err.is_addr_in_use(), "{err}");
        assert!(
            err.to_string()
                .contains("stop the server that has it, or choose another address"),
            "{err}"
        );
    }
    drop(live);
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    let err = UnixStream::options().bind(&path).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::AlreadyExists);
    assert!(
        err.to_string().contains("a file that is not a socket"),
        "{err}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(
        UnixStream::options().bind(&link).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert!(!fs::metadata(&path).unwrap().file_type().is_socket());
}

#[test]
fn a_failure_after_the_bind_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    // A user may not give the file to this group, and for root the group is invalid: chown(2)
    // accepts any number but -1.
    let options = UnixStream::options().owner(Some(u32::MAX - 1), None);
    if let Err(err) = options.bind(&path) {
        assert!(err.is_permission_denied(), "{err}");
    }
    assert!(!path.exists());
}

#[test]
fn a_bound_socket_refuses_until_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let bound = UnixStream::options().bind_only(&path).unwrap();
    assert_eq!(
        net::UnixStream::connect(&path).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let _listener = bound.listen().unwrap();
    assert!(net::UnixStream::connect(&path).is_ok());
}

/// A socket that does not listen yet refuses a probe, as the file of a dead server does.
#[test]
fn a_server_that_does_not_listen_yet_keeps_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    // With a stale file, and without one.
    drop(net::UnixListener::bind(&path).unwrap());
    for _ in 0..2 {
        let bound = UnixStream::options().bind_only(&path).unwrap();
        for err in [
            UnixStream::options().bind(&path).unwrap_err(),
            UnixDatagram::options().bind(&path).unwrap_err(),
        ] {
            assert!(err.is_addr_in_use(), "{err}");
            let what =
                "another server is binding a socket there (ss -xap shows who holds the lock @";
            assert!(err.to_string().contains(what), "{err}");
        }
        let listener = bound.listen().unwrap();
        assert!(net::UnixStream::connect(&path).is_ok());
        let err = UnixStream::options().bind(&path).unwrap_err();
        assert!(err.to_string().contains("a server answers there"), "{err}");
        drop(listener);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
    // A server that gives up before it listens unlocks the path.
    drop(UnixStream::options().bind_only(&path).unwrap());
    drop(UnixStream::options().bind(&path).unwrap());
}

#[test]
fn a_lock_on_the_directory_does_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(net::UnixListener::bind(&path).unwrap());
    let locked = fs::File::open(&directory).unwrap();
    flock(&locked, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(UnixStream::options().bind(&path).unwrap());
    drop(net::UnixDatagram::bind(&path).unwrap());
    drop(UnixDatagram::options().bind(&path).unwrap());
}

#[test]
fn a_stale_file_is_replaced_in_a_directory_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    // Root may read any directory, so this thread changes its user; the harness may run other tests
    // on it afterwards.
    let unreadable = directory.path().join("d");
    let other = thread::spawn(move || {
        if rustix::process::getuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        fs::create_dir(&unreadable).unwrap();
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o300)).unwrap();
        assert!(fs::read_dir(&unreadable).is_err(), "it can be read");
        let path = unreadable.join("s");
        drop(net::UnixListener::bind(&path).unwrap());
        let bound = UnixStream::options().bind(&path).unwrap();
        assert!(net::UnixStream::connect(&path).is_ok());
        drop(bound);
        assert!(!path.exists());
        // So that the directory can be removed.
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o700)).unwrap();
    });
    other.join().unwrap();
}
