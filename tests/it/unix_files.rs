//! The files of Unix sockets: who may connect, what is replaced, what is removed.

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
fn the_mode_is_what_was_asked_whatever_the_umask() {
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
    // Without one it is what the umask leaves, as with any new file.
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
    // Root may give it to anybody; others only to themselves.
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
    // Without a mode, the umask has its say after the owner was set.
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
fn the_file_goes_with_its_listener_and_only_if_it_is_still_its() {
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
fn a_live_server_is_an_error_also_when_its_queue_is_full_or_its_type_another() {
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
    // No group may be given away by a user, and none with this number exists for root: chown(2)
    // takes any but -1.
    let options = UnixStream::options().owner(Some(u32::MAX - 1), None);
    if let Err(err) = options.bind(&path) {
        assert!(err.is_permission_denied(), "{err}");
    }
    assert!(!path.exists());
}

#[test]
fn bound_and_not_listening_refuses_until_it_listens() {
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

/// A probe is refused by a socket that does not listen yet, as by one whose server is dead.
#[test]
fn a_server_that_does_not_listen_yet_keeps_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    // Over a stale file, and without one.
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
    // Who gives up before it listens leaves the path to others.
    drop(UnixStream::options().bind_only(&path).unwrap());
    drop(UnixStream::options().bind(&path).unwrap());
}

#[test]
fn a_lock_on_the_directory_is_none_of_ours() {
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
    // Root may read any directory, so this thread becomes somebody else; the harness may have given
    // it other tests to run.
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
        // So that it can be removed.
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o700)).unwrap();
    });
    other.join().unwrap();
}
