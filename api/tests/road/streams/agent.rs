//! An agent of plain words: it opens what it is told to and says what tests expect.
//!
//! Its runtime speaks SPDY/3.1 as one reads it in the protocol, not by the code that is tested.

use std::io;

use futures::{StreamExt as _, stream};
use kontiki_api::Status;
use kontiki_api::error::Reason;
use kontiki_api::node::{Channel, PROTOCOL, pipe};
use kontiki_api::tunnel::Duplex;
use kontiki_api::tunnel::wire::node_client::NodeClient;
use kontiki_api::tunnel::wire::want::Kind;
use kontiki_api::tunnel::wire::{
    self, FromNode, FromTunnel, Hello, Open, ToNode, from_node, from_tunnel, to_node,
};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// An agent that is gone when this is dropped.
pub struct Agent(#[expect(dead_code, reason = "held for as long as it runs")] JoinSet<()>);

/// A session that goes on as long as this is held.
pub struct Session {
    pub client: NodeClient<Channel>,
    pub messages: tonic::Streaming<ToNode>,
    pub words: mpsc::Sender<FromNode>,
}

/// Begins a session of `node`, in whose name `tls` may speak or not.
pub async fn session(url: &str, tls: &ClientConfig, node: &str) -> Result<Session, tonic::Status> {
    let hello = Hello { node: node.into(), protocol: PROTOCOL, ..Hello::default() };
    begin(url, tls, hello).await
}

/// Begins a session with any hello.
pub async fn begin(url: &str, tls: &ClientConfig, hello: Hello) -> Result<Session, tonic::Status> {
    let channel = Channel::connect(url, tls).await.unwrap();
    let (words, said) = mpsc::channel(1);
    let hello = FromNode { message: Some(from_node::Message::Hello(hello)) };
    words.send(hello).await.unwrap();
    let said = ReceiverStream::new(said);
    let mut messages = channel.client().session(said).await?.into_inner();
    let first = messages.message().await?.and_then(|it| it.message);
    assert!(matches!(first, Some(to_node::Message::Welcome(_))), "{first:?}");
    Ok(Session { client: channel.client(), messages, words })
}

impl Agent {
    pub async fn start(url: &str, tls: &ClientConfig, node: &str) -> Agent {
        let Session { client, mut messages, words } = session(url, tls, node).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The session ends when nothing more can be said.
            let _words = words;
            let mut tunnels = JoinSet::new();
            while let Ok(Some(message)) = messages.message().await {
                if let Some(to_node::Message::Open(order)) = message.message {
                    tunnels.spawn(carry(client.clone(), order));
                }
            }
        });
        Agent(tasks)
    }
}

fn message(message: from_tunnel::Message) -> FromTunnel {
    FromTunnel { message: Some(message) }
}

async fn carry(mut client: NodeClient<Channel>, order: Open) {
    let Open { key, want } = order;
    let kind = want.and_then(|it| it.kind).unwrap();
    if let Kind::Logs(logs) = &kind
        && logs.previous
    {
        let status = Status::new(Reason::NotFound, "there is none");
        let refused = wire::Refused { key, ..status.into() };
        let said = stream::iter([message(from_tunnel::Message::Refused(refused))]);
        client.tunnel(said).await.unwrap();
        return;
    }
    let protocol = match &kind {
        Kind::Exec(exec) => exec.protocols.first(),
        Kind::PortForward(forward) => forward.protocols.first(),
        _ => None,
    };
    let opened = wire::Opened { key, protocol: protocol.cloned().unwrap_or_default() };
    let (out, pieces) = pipe::queue();
    let data = |data| message(from_tunnel::Message::Data(data));
    let said = stream::iter([message(from_tunnel::Message::Opened(opened))])
        .chain(pipe::queued(pieces).map(data));
    let answers = client.tunnel(said).await.unwrap().into_inner();
    let arriving = pipe::arriving(answers, |it| it.data, pipe::Ended::default());
    let mut bytes = pipe::duplex(arriving, out);
    let ended = match kind {
        Kind::Exec(exec) => Runtime::new(&mut bytes).run(&exec.command).await,
        Kind::Logs(logs) => log(&mut bytes, logs.follow).await,
        Kind::Kubelet(_) | Kind::Dial(_) => page(&mut bytes).await,
        _ => echo(&mut bytes).await,
    };
    // A tunnel that breaks is the affair of the test. One that ends is read by the master to its end.
    if ended.is_ok() && bytes.shutdown().await.is_ok() {
        let _ = tokio::io::copy(&mut bytes, &mut tokio::io::sink()).await;
    }
}

async fn echo(bytes: &mut Box<dyn Duplex>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(bytes);
    tokio::io::copy(&mut reader, &mut writer).await.map(drop)
}

async fn log(bytes: &mut Box<dyn Duplex>, follow: bool) -> io::Result<()> {
    bytes.write_all(b"one\ntwo\n").await?;
    let line = [b'x'; 4096];
    if !follow {
        return Ok(());
    }
    loop {
        bytes.write_all(&line).await?;
    }
}

async fn page(bytes: &mut Box<dyn Duplex>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(bytes.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let asked = head.lines().next().unwrap_or_default();
    // A page of its own, or the question as the answer.
    let (media, body) = match asked {
        "GET /links HTTP/1.1" => ("text/html", "<a href=\"/page\">page</a>"),
        asked => ("text/plain", asked),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\ncontent-length: {length}");
    let answer = format!("{head}\r\n\r\n{body}");
    bytes.write_all(answer.as_bytes()).await
}

/// The stream server of a container runtime.
struct Runtime<'a> {
    bytes: &'a mut Box<dyn Duplex>,
}

const ERROR: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;
const STDERR: u32 = 7;
const OK: &str = r#"{"metadata":{},"status":"Success"}"#;
const THREE: &str = concat!(
    r#"{"status":"Failure","message":"command terminated with exit code 3","#,
    r#""reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
);

enum Frame {
    Syn(u32),
    Data(u32, bool, Vec<u8>),
    Ping(Vec<u8>),
}

impl Runtime<'_> {
    fn new(bytes: &mut Box<dyn Duplex>) -> Runtime<'_> {
        Runtime { bytes }
    }

    async fn next(&mut self) -> io::Result<Frame> {
        loop {
            let first = self.bytes.read_u32().await?;
            let second = self.bytes.read_u32().await?;
            let mut body = vec![0; (second & 0x00ff_ffff) as usize];
            self.bytes.read_exact(&mut body).await?;
            if first >> 31 == 0 {
                return Ok(Frame::Data(first, second >> 24 & 1 == 1, body));
            }
            assert_eq!(first >> 16, 0x8003, "a control frame of SPDY/3");
            match first & 0xffff {
                1 => return Ok(Frame::Syn(u32::from_be_bytes(body[..4].try_into().unwrap()))),
                6 => return Ok(Frame::Ping(body)),
                _ => {}
            }
        }
    }

    async fn say(&mut self, stream: u32, bytes: &[u8], fin: bool) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).unwrap();
        let head = [stream, u32::from(fin) << 24 | length].map(u32::to_be_bytes).concat();
        self.bytes.write_all(&[&head[..], bytes].concat()).await
    }

    async fn end(&mut self, status: &str) -> io::Result<()> {
        self.say(ERROR, status.as_bytes(), true).await?;
        self.say(STDOUT, &[], true).await?;
        self.say(STDERR, &[], true).await
    }

    async fn run(mut self, command: &[String]) -> io::Result<()> {
        for stream in [ERROR, STDIN, STDOUT, STDERR] {
            let Frame::Syn(opened) = self.next().await? else { panic!("a stream is opened") };
            assert_eq!(opened, stream);
        }
        match command[0].as_str() {
            "cat" => loop {
                match self.next().await? {
                    Frame::Data(STDIN, fin, bytes) => {
                        if !bytes.is_empty() {
                            self.say(STDOUT, &bytes, false).await?;
                        }
                        if fin {
                            return self.end(OK).await;
                        }
                    }
                    _ => panic!("only stdin is used"),
                }
            },
            "true" => self.end(OK).await,
            // Says nothing at the right moment: the status comes before the last of the output.
            "three" => {
                self.say(ERROR, THREE.as_bytes(), true).await?;
                self.say(STDERR, b"no", true).await?;
                self.say(STDOUT, &[], true).await
            }
            "ping" => {
                self.bytes.write_all(b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x02").await?;
                let Frame::Ping(id) = self.next().await? else { panic!("a ping is answered") };
                assert_eq!(id, [0, 0, 0, 2]);
                self.end(OK).await
            }
            "garbage" => self.bytes.write_all(b"\x80\x63garbage").await,
            "break" => Ok(()),
            _ => loop {
                self.next().await?;
            },
        }
    }
}
