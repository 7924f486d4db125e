//! Programs from other packages for `exec`: the files that they serve, and their clients.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::ask;

/// The servers and clients, with the packages of Debian that have them.
const TOOLS: [(&str, &str); 8] = [
    ("git", "git"),
    ("rsync", "rsync"),
    ("in.tftpd", "tftpd-hpa"),
    ("micro-httpd", "micro-httpd netcat-traditional"),
    ("busybox", "busybox"),
    ("python3", "python3"),
    ("curl", "curl"),
    ("openssl", "openssl"),
];

/// The directories of programs; those of servers are not in the PATH of every user.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fails where a tool is missing.
#[track_caller]
pub(crate) fn need(tool: &str) {
    let known = TOOLS.iter().find(|(name, _)| *name == tool);
    let (_, packages) = known.unwrap_or_else(|| panic!("{tool} is not in the list of tools"));
    let found = PATH
        .split(':')
        .any(|folder| Path::new(folder).join(tool).is_file());
    assert!(
        found,
        "{tool} is missing; on Debian: apt-get install {packages}"
    );
}

/// Runs a client to its end, and returns what it prints.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.env("PATH", PATH).output().expect("run a client");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Fills a folder `srv` with a page, a file for TFTP, a module of rsync and a repository, for every user to read.
#[track_caller]
pub(crate) fn fill(folder: &Path) {
    let srv = folder.join("srv");
    for name in ["www", "tftp", "module", "git"] {
        fs::create_dir_all(srv.join(name)).expect("a directory");
    }
    for name in ["www/page.txt", "tftp/image", "module/file"] {
        fs::write(srv.join(name), format!("this is {name}\n")).expect("write a file");
    }
    let module = srv.join("module");
    let config = format!(
        "use chroot = no\nreverse lookup = no\n[module]\n    path = {}\n",
        module.display()
    );
    fs::write(srv.join("rsyncd.conf"), config).expect("write a configuration");
    let repository = srv.join("git/project.git");
    let (repository, work) = (repository.display(), srv.join("work"));
    let work = work.display();
    let name = "-c user.name=Test -c user.email=test@example.org";
    let script = format!(
        "git init -q --bare {repository} && git clone -q {repository} {work} 2>/dev/null && cd {work} && echo text >file && \
         git add file && git {name} commit -qm first && git push -q origin HEAD && chmod -R a+rX {}",
        folder.display()
    );
    run(Command::new("sh").args(["-c", &script]));
}

/// Makes a user the owner of the repository: git serves no other's.
#[track_caller]
pub(crate) fn give_repository(folder: &Path, uid: u32) {
    let mut chown = Command::new("chown");
    chown.args(["-R", &uid.to_string()]);
    run(chown.arg(folder.join("srv/git")));
}

/// The address in a URL.
pub(crate) fn address(url: &str) -> &str {
    url.split_once("://").expect("a URL").1
}

#[track_caller]
pub(crate) fn clones(url: &str) {
    need("git");
    let copy = tempfile::tempdir().expect("a temporary directory");
    let from = format!("git://{}/project.git", address(url));
    let mut clone = Command::new("git");
    clone
        .args(["clone", "-q", &from])
        .arg(copy.path().join("copy"));
    run(&mut clone);
    let file = fs::read_to_string(copy.path().join("copy/file")).expect("the file");
    assert_eq!(file, "text\n");
}

#[track_caller]
pub(crate) fn syncs(url: &str) {
    need("rsync");
    let copy = tempfile::tempdir().expect("a temporary directory");
    let from = format!("rsync://{}/module/", address(url));
    run(Command::new("rsync").args(["-a", &from]).arg(copy.path()));
    let file = fs::read_to_string(copy.path().join("file")).expect("the file");
    assert_eq!(file, "this is module/file\n");
}

#[track_caller]
pub(crate) fn sends_by_tftp(url: &str) {
    need("curl");
    let from = format!("tftp://{}/image", address(url));
    let text = run(Command::new("curl").args(["--silent", "--show-error", &from]));
    assert_eq!(text, "this is tftp/image\n");
}

#[track_caller]
pub(crate) fn sends_a_page(url: &str) {
    let answer = ask(url, b"GET /page.txt HTTP/1.0\r\n\r\n", 1 << 16);
    let answer = String::from_utf8(answer).expect("UTF-8");
    assert!(answer.contains(" 200 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nthis is www/page.txt\n"),
        "{answer}"
    );
}
