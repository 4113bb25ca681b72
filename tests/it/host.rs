//! `corolla host` and `corolla bootstrap`: what they say of memory and blocks, and what they know the next time.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use testkit::fixtures;

use crate::server::corolla;

/// A process, its first line, and what it says on its standard error stream.
struct Running {
    child: Child,
    address: String,
    log: BufReader<ChildStderr>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, address: address.trim().to_owned(), log }
    }

    /// What it says until it says that.
    fn until(&mut self, words: &str) -> String {
        let mut log = String::new();
        while !log.contains(words) {
            assert!(self.log.read_line(&mut log).unwrap() > 0, "{words:?} was never said: {log}");
        }
        log
    }

    /// Asks it to stop, as an operator would; its exit code.
    fn stop(mut self) -> i32 {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // where the test has failed
        let _ = self.child.wait();
    }
}

fn host(cache: &Path, peers: &str, more: &[&str]) -> Command {
    let mut command = corolla();
    let model = fixtures::path("models/tiny-bloom");
    command
        .env("COROLLA_CACHE", cache)
        .args(["host", "--threads", "1", "--initial-peers", peers, "--model"])
        .arg(model);
    if !more.contains(&"--dht-prefix") {
        command.args(["--dht-prefix", "tiny"]);
    }
    command.args(more);
    command
}

#[test]
fn what_was_measured_is_known_the_next_time() {
    let cache = tempfile::tempdir().unwrap();
    let mut bootstrap = Running::start(corolla().args(["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0"]));
    bootstrap.until("can be entered");
    let peers = bootstrap.address.clone();
    for (more, measured) in [(&[][..], true), (&[][..], false), (&["--measure"][..], true)] {
        let mut host = Running::start(&mut host(cache.path(), &peers, more));
        let log = host.until("serving the blocks");
        assert_eq!(log.contains("measured how fast a block is"), measured, "{log}");
        assert_eq!(log.contains("measured the way into the swarm"), measured, "{log}");
        assert!(log.contains("blocks=0:3"), "all blocks fit: {log}");
        assert_eq!(host.stop(), 0);
    }
    std::fs::write(cache.path().join("throughput.json"), "{").unwrap();
    let mut host = Running::start(&mut host(cache.path(), &peers, &["--blocks", "1:3"]));
    let log = host.until("serving the blocks");
    assert!(log.contains("measuring again") && log.contains("blocks=1:3"), "{log}");
    assert_eq!((host.stop(), bootstrap.stop()), (0, 0));
}

#[test]
fn blocks_that_cannot_be_had_are_refused_before_anything_is_loaded() {
    let cache = tempfile::tempdir().unwrap();
    let nobody = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGhT84YmJkTNKkYPeBGCFdfZarjv3dBpPzQtk359DcA9k";
    for (more, words) in [
        (&["--num-blocks", "4"][..], "has 3 blocks"),
        (&["--num-blocks", "0"], "a number of blocks from 1 on, or auto"),
        (&["--num-blocks", "2", "--blocks", "0:2"], "cannot be used with"),
        (&["--blocks", "1:4"], "goes beyond the model's blocks"),
        (&["--attn-cache-tokens", "999999999999"], "not enough memory"),
        (&["--num-blocks", "2", "--attn-cache-tokens", "999999999999"], "not enough memory"),
        (&["--dht-prefix", "a.b"], "a.b"),
    ] {
        let output = host(cache.path(), nobody, more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{more:?}: {said}");
    }
}
