//! The one program in the demo image: a web server to put behind a service, and small commands to look
//! around with from inside a container.
//!
//! `build.rs` compiles it by itself, with the standard library alone and linked statically: the image holds
//! nothing else.
//! It is called by the name of a command, or with that name as its first argument.
//! Never: reads more of a request than `REQUEST_BYTES_MAX`, or serves more than `CONNECTIONS_MAX` at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

const HELP: &str = "\
demo: what to look around with in a cluster that has no other image

  serve [PORT]       answer web requests and datagrams on 8080: / says who answers, /healthz says ok
  get URL            ask a web server and print what it answers
  ask URL SECONDS    ask it again and again, and say how often there was no answer
  send ADDRESS TEXT  send a datagram to HOST:PORT and print what comes back
  tick [SECONDS]     print a number each second
  cat [FILE]...      print files, or what comes in
  write FILE TEXT... put text into a file
  echo TEXT...       print text
  env                print the environment
  fill MEBIBYTES     use memory, and keep it
  sleep SECONDS
  exit [CODE]
";
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(30);
const ASK_PAUSE: Duration = Duration::from_millis(10);
const DATAGRAMS_MAX: usize = 5;
const REQUEST_BYTES_MAX: u64 = 64 << 10;
const CONNECTIONS_MAX: usize = 256;

fn main() -> ExitCode {
    let mut words = env::args();
    let name = words.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let command = if name == "demo" { words.next().unwrap_or_default() } else { name };
    let arguments: Vec<String> = words.collect();
    match run(&command, &arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{command}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, arguments: &[String]) -> io::Result<ExitCode> {
    let first = arguments.first().map(String::as_str);
    match command {
        "serve" => serve(number(first, PORT.into())?)?,
        "get" => io::stdout().write_all(&get(first.ok_or_else(|| wrong("which URL?"))?)?)?,
        "ask" => {
            let seconds = number(arguments.get(1).map(String::as_str), 10)?;
            return ask(first.ok_or_else(|| wrong("which URL?"))?, Duration::from_secs(seconds));
        }
        "send" => {
            let (address, text) = arguments.split_first().ok_or_else(|| wrong("whereto?"))?;
            send(address, &text.join(" "))?;
        }
        "tick" => tick(number(first, u64::MAX)?)?,
        "cat" => cat(arguments)?,
        "write" => {
            let (file, text) = arguments.split_first().ok_or_else(|| wrong("which file?"))?;
            fs::write(file, text.join(" ") + "\n")?;
        }
        "echo" => println!("{}", arguments.join(" ")),
        "env" => env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "fill" => fill(number(first, 0)?),
        "sleep" => thread::sleep(Duration::from_secs(number(first, 0)?)),
        "exit" => return Ok(ExitCode::from(u8::try_from(number(first, 0)?).unwrap_or(u8::MAX))),
        "" | "help" | "--help" => print!("{HELP}"),
        other => return Err(wrong(&format!("there is no command {other:?}; see `demo help`"))),
    }
    Ok(ExitCode::SUCCESS)
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn number(text: Option<&str>, otherwise: u64) -> io::Result<u64> {
    text.map_or(Ok(otherwise), |text| {
        text.parse().map_err(|_| wrong(&format!("{text:?} is no number")))
    })
}

fn serve(port: u64) -> io::Result<()> {
    let port = u16::try_from(port).map_err(|_| wrong("a port is below 65536"))?;
    // Both families, where the machine has both.
    let listener =
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    let datagrams = UdpSocket::bind(listener.local_addr()?)?;
    thread::spawn(move || echo(&datagrams));
    println!("listening on port {}", listener.local_addr()?.port());
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = stream?;
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let open = open.clone();
        thread::spawn(move || {
            if let Err(error) = answer(stream) {
                eprintln!("a connection broke: {error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Each datagram is answered by who answers, and what it said.
fn echo(datagrams: &UdpSocket) {
    let mut words = [0; 1024];
    loop {
        let heard = datagrams.recv_from(&mut words).and_then(|(length, from)| {
            let text = String::from_utf8_lossy(&words[..length]);
            let answer = format!("{} heard {}\n", who(), text.trim_end());
            datagrams.send_to(answer.as_bytes(), from)
        });
        if let Err(error) = heard {
            eprintln!("a datagram was lost: {error}");
        }
    }
}

fn who() -> String {
    fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned()
}

/// One request, one answer.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let from = stream.peer_addr()?.ip();
    let mut lines = BufReader::new((&stream).take(REQUEST_BYTES_MAX)).lines();
    let Some(request) = lines.next().transpose()? else { return Ok(()) };
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    let path = request.split([' ', '?']).nth(1).unwrap_or("/").to_owned();
    let (status, body) = page(&path);
    println!("{from} {request} {status}");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn page(path: &str) -> (&'static str, String) {
    match path {
        "/healthz" | "/readyz" => ("200 OK", "ok\n".into()),
        "/env" => {
            let lines = env::vars().map(|(name, value)| format!("{name}={value}\n"));
            ("200 OK", lines.collect())
        }
        "/" => {
            let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello from".into());
            ("200 OK", format!("{greeting} {}\n", who()))
        }
        other => ("404 Not Found", format!("there is no {other} here\n")),
    }
}

/// What a web server answers, without TLS.
fn get(url: &str) -> io::Result<Vec<u8>> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let with_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if with_port { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status)?;
    let mut header = String::new();
    while answer.read_line(&mut header)? > 0 && header.trim_end() != "" {
        header.clear();
    }
    let mut body = Vec::new();
    answer.read_to_end(&mut body)?;
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(body),
        _ => Err(io::Error::other(status.trim_end().to_owned())),
    }
}

/// Each time with a connection of its own. Fails if one of them failed.
fn ask(url: &str, long: Duration) -> io::Result<ExitCode> {
    let began = Instant::now();
    let (mut asked, mut failed) = (0u64, 0u64);
    println!("asking {url}");
    while began.elapsed() < long {
        asked += 1;
        if let Err(error) = get(url) {
            failed += 1;
            println!("{:.3} s: {error}", began.elapsed().as_secs_f64());
        }
        thread::sleep(ASK_PAUSE);
    }
    println!("asked {asked} times, {failed} without an answer");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A datagram may be lost: it is sent again.
fn send(address: &str, text: &str) -> io::Result<()> {
    let to = address.to_socket_addrs()?.next().ok_or_else(|| wrong("no such address"))?;
    let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut heard = [0; 1024];
    for _ in 0..DATAGRAMS_MAX {
        socket.send_to(text.as_bytes(), to)?;
        if let Ok(length) = socket.recv(&mut heard) {
            return io::stdout().write_all(&heard[..length]);
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers"))
}

fn tick(seconds: u64) -> io::Result<()> {
    for at in 0..seconds {
        writeln!(io::stdout(), "{at}")?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn cat(files: &[String]) -> io::Result<()> {
    let mut out = io::stdout();
    if files.is_empty() {
        io::copy(&mut io::stdin(), &mut out)?;
    }
    for file in files {
        let failed = |error| io::Error::other(format!("{file}: {error}"));
        io::copy(&mut fs::File::open(file).map_err(failed)?, &mut out)?;
    }
    Ok(())
}

fn fill(mebibytes: u64) {
    let size = usize::try_from(mebibytes << 20).unwrap_or(usize::MAX);
    // Something must be written, or the kernel gives nothing.
    let memory = vec![1u8; size];
    println!("{} bytes are used", memory.len());
    loop {
        thread::park();
    }
}
