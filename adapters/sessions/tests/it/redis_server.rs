//! A Redis of our own for one test: on a free port, without files, stopped at the end.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// A running server.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        // Between choosing a free port and taking it somebody else may have taken it.
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        (0..5).find_map(|_| Self::try_start(free())).expect("redis-server should start")
    }

    /// The same server once more: at its old address, with nothing in it.
    pub(crate) fn restart(self) -> Self {
        let port = self.port;
        drop(self);
        Self::try_start(port).expect("redis-server should start again")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn try_start(port: u16) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
        command.current_dir(std::env::temp_dir()).stdout(Stdio::piped());
        let mut process = match command.spawn() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not installed: apt-get install redis-server")
            }
            started => started.unwrap(),
        };
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
        let server = Self { process, port };
        ready.then_some(server)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
