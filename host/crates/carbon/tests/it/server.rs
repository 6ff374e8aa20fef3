//! A provider on this machine: it answers each request with the next of what it was given, and keeps the requests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a request is answered with.
#[derive(Clone)]
pub enum Reply {
    /// A status, further header lines, and a body.
    Say(u16, &'static str, String),
    /// Nothing, and the connection ends.
    HangUp,
    /// Nothing, for longer than anyone waits.
    Stall,
}

/// A body with status 200.
pub fn ok(body: impl Into<String>) -> Reply {
    Reply::Say(200, "", body.into())
}

/// A status without a body.
pub fn status(code: u16) -> Reply {
    Reply::Say(code, "", String::new())
}

pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers so often as there are `replies`, then hangs up on everyone.
    pub fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, replies) = (requests.clone(), replies.into_iter().collect::<Vec<_>>());
        thread::spawn(move || {
            let mut replies = replies.into_iter();
            for stream in listener.incoming() {
                let reply = replies.next().unwrap_or(Reply::HangUp);
                answer(stream.unwrap(), reply, &kept);
            }
        });
        Self { url, requests }
    }

    /// The head of each request, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, reply: Reply, requests: &Mutex<Vec<String>>) {
    let mut head = String::new();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    while lines.read_line(&mut head).unwrap_or(0) > 2 {}
    requests.lock().unwrap().push(head);
    match reply {
        Reply::Say(code, headers, body) => {
            let head = format!(
                "HTTP/1.1 {code} X\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            // Who reads no further than its cap hangs up.
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body.as_bytes()));
        }
        Reply::HangUp => {}
        Reply::Stall => {
            thread::spawn(move || {
                thread::sleep(Duration::from_secs(30));
                drop(stream);
            });
        }
    }
}
