use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::executor::poller::Timer;
use crate::executor::token::Token;
use crate::manifest::pod::{Host, HttpGet, Scheme};

/// Longer than anything here takes.
const PATIENCE: Millis = Millis::from_secs(30);

/// Asks, as the executor's loop does it.
fn ask(handler: Handler, timeout: Millis) -> Answer {
    let poller = Poller::new().unwrap();
    let mut timer = Timer::new(&poller, Token::Timer.encode()).unwrap();
    let mut asking = Asking::new(&poller);
    let question = Question {
        container: "a".parse().unwrap(),
        attempt: Attempt(0),
        purpose: Purpose::Liveness,
        handler,
        timeout,
    };
    asking.begin(question, BootTime::now());
    let mut ready = Vec::new();
    loop {
        if let Some(event) = asking.next_event() {
            assert!(asking.asked.is_empty() && asking.is_quiet());
            let Event::Answered { answer, .. } = event else { panic!("{event:?}") };
            return answer;
        }
        timer.set(asking.wake_at()).unwrap();
        poller.wait(&mut ready).unwrap();
        for token in ready.iter().copied().filter_map(Token::decode) {
            if let Token::Question(id) = token {
                asking.look(id);
            } else {
                assert_eq!(token, Token::Timer);
                timer.clear();
                asking.expire(BootTime::now());
            }
        }
    }
}

/// A server that answers each connection in turn with a text, and tells what it was asked.
fn serve(address: &str, answers: Vec<String>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(head(&mut stream)).ok();
            stream.write_all(answer.replace("PORT", &at.port().to_string()).as_bytes()).unwrap();
        }
    });
    (at, receiver)
}

/// The head of a request.
fn head(stream: &mut impl std::io::Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
}

fn get(at: SocketAddr) -> HttpGet {
    let (host, path) = (Some(Host::Address(at.ip())), "/live?x=1".to_owned());
    HttpGet { host, port: at.port(), path, scheme: Scheme::Http, headers: Vec::new() }
}

fn seen(answer: &Answer) -> (Seen, &str) {
    match answer {
        Answer::Success(observed) | Answer::Doubtful(observed) | Answer::Failure(observed) => {
            (observed.seen, &observed.text)
        }
        Answer::NotAsked { why } => panic!("{why}"),
    }
}

#[test]
fn h11_a_status_from_200_to_399_is_a_success() {
    for (status, good) in [(200, true), (204, true), (399, true), (400, false), (503, false)] {
        let (at, _) = serve("127.0.0.1", vec![answer(&format!("{status} X"), "", "the body")]);
        let answer = ask(Handler::Http(get(at)), PATIENCE);
        assert_eq!(matches!(answer, Answer::Failure(_)), !good, "{answer:?}");
        assert_eq!(seen(&answer).0, Seen::HttpStatus(status));
        if status != 204 {
            assert!(seen(&answer).1.ends_with("the body"), "{answer:?}");
        }
    }
}

#[test]
fn a_request_is_that_of_the_kubelet_with_the_headers_of_the_manifest() {
    let (at, asked) = serve("127.0.0.1", vec![answer("200 OK", "", ""); 2]);
    let plain = get(at);
    let headers = [("Host", "shop.example"), ("X-A", "1"), ("X-A", "2"), ("Accept", "")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    for get in [plain.clone(), HttpGet { headers, ..plain }] {
        assert!(matches!(ask(Handler::Http(get), PATIENCE), Answer::Success(_)));
    }
    let plain = asked.recv().unwrap();
    let mut lines: Vec<&str> = plain.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /live?x=1 HTTP/1.1");
    lines.sort_unstable();
    let host = format!("Host: {at}");
    let agent = format!("User-Agent: {}", http::USER_AGENT);
    assert_eq!(lines, ["Accept: */*", "Connection: close", &host, &agent]);
    let own = asked.recv().unwrap();
    for line in ["Host: shop.example\r\n", "X-A: 1\r\n", "X-A: 2\r\n"] {
        assert!(own.contains(line), "{own}");
    }
    assert!(!own.contains("Accept"), "{own}");
}

#[test]
fn a_redirect_is_followed_on_the_host_and_doubtful_elsewhere() {
    let to = |place: &str| answer("302 Found", &format!("location: {place}\r\n"), "");
    let (at, asked) = serve("127.0.0.1", vec![to("/next"), answer("200 OK", "", "there")]);
    let found = ask(Handler::Http(get(at)), PATIENCE);
    assert_eq!(seen(&found), (Seen::HttpStatus(200), "there"));
    assert!(asked.iter().nth(1).unwrap().starts_with("GET /next "));
    let (at, _) = serve("127.0.0.1", vec![to("https://example.com/")]);
    let found = ask(Handler::Http(get(at)), PATIENCE);
    assert!(matches!(found, Answer::Doubtful(_)), "{found:?}");
    let (at, asked) = serve("127.0.0.1", vec![to("http://127.0.0.1:PORT/"); 20]);
    let found = ask(Handler::Http(get(at)), PATIENCE);
    assert!(matches!(found, Answer::Failure(_)), "{found:?}");
    assert_eq!(asked.try_iter().count(), 11);
}

#[test]
fn what_is_no_answer_is_a_failure() {
    for text in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nless"] {
        let (at, _) = serve("127.0.0.1", vec![text.to_owned()]);
        let answer = ask(Handler::Http(get(at)), PATIENCE);
        assert!(matches!(answer, Answer::Failure(_)), "{text}: {answer:?}");
        assert_eq!(seen(&answer).0, Seen::Nothing);
    }
    // A server that goes on for ever.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all("HTTP/1.1 100 Continue\r\n\r\n".repeat(100).as_bytes()).is_ok() {}
    });
    let answer = ask(Handler::Http(get(at)), PATIENCE);
    assert_eq!(seen(&answer).0, Seen::Nothing);
}

#[test]
fn a_large_body_is_read_in_part_only() {
    let (at, _) = serve("127.0.0.1", vec![answer("200 OK", "", &"x".repeat(64 << 10))]);
    let answer = ask(Handler::Http(get(at)), PATIENCE);
    assert_eq!(seen(&answer), (Seen::HttpStatus(200), "x".repeat(TEXT_LEN_MAX).as_str()));
}

#[test]
fn no_answer_in_time_is_a_failure_and_not_before() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let begun = BootTime::now();
    let answer = ask(Handler::Http(get(at)), Millis(150));
    assert_eq!(seen(&answer), (Seen::Nothing, "no answer within 150ms"));
    let took = BootTime::now().since(begun);
    assert!(took >= Millis(150) && took < Millis(10_000), "{took}");
}

#[test]
fn a_connection_is_made_by_both_families_or_refused() {
    for address in ["127.0.0.1", "::1"] {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let handler = Handler::Tcp { host: Some(Host::Address(at.ip())), port: at.port() };
        let answer = ask(handler.clone(), PATIENCE);
        assert_eq!(seen(&answer).0, Seen::Connected(true));
        drop(listener);
        let answer = ask(handler, PATIENCE);
        assert!(matches!(answer, Answer::Failure(_)));
        assert_eq!(seen(&answer).0, Seen::Connected(false));
        assert!(seen(&answer).1.contains("refused"), "{answer:?}");
    }
    let (at, asked) = serve("::1", vec![answer("200 OK", "", "")]);
    assert_eq!(at.ip(), IpAddr::V6(Ipv6Addr::LOCALHOST));
    assert!(matches!(ask(Handler::Http(get(at)), PATIENCE), Answer::Success(_)));
    assert!(asked.recv().unwrap().contains(&format!("Host: [::1]:{}", at.port())));
}

#[test]
fn a_server_may_have_any_certificate() {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tests/certificate.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tests/key.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.unwrap()], key.unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _): (TcpStream, _) = listener.accept().unwrap();
        let session = rustls::ServerConnection::new(config.into()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        head(&mut stream);
        stream.write_all(answer("200 OK", "", "in secret").as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        // Until the other side has gone.
        stream.sock.read_to_end(&mut Vec::new()).ok();
    });
    let secret = HttpGet { scheme: Scheme::Https, ..get(at) };
    let answer = ask(Handler::Http(secret), PATIENCE);
    assert_eq!(seen(&answer), (Seen::HttpStatus(200), "in secret"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"plain text, as it seems").unwrap();
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let secret = HttpGet { scheme: Scheme::Https, ..get(at) };
    let answer = ask(Handler::Http(secret), PATIENCE);
    assert!(seen(&answer).1.contains("TLS"), "{answer:?}");
}

/// A server of `grpc.health.v1.Health` that answers as it is told: headers, message, trailers.
fn serve_grpc(status: u16, message: &'static [u8], grpc_status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let head = hyper::Response::builder().status(status).body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                if !message.is_empty() {
                    stream.send_data(message.into(), false).unwrap();
                }
                let mut trailers = hyper::HeaderMap::new();
                trailers.insert("grpc-status", grpc_status.parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            }
        });
    });
    port
}

#[test]
fn a_service_is_good_when_it_serves() {
    let ask = |status, message, grpc_status| {
        let port = serve_grpc(status, message, grpc_status);
        ask(Handler::Grpc { port, service: "shop".to_owned() }, PATIENCE)
    };
    let serving = ask(200, &[0, 0, 0, 0, 2, 8, 1], "0");
    assert!(matches!(serving, Answer::Success(_)), "{serving:?}");
    assert_eq!(seen(&serving).0, Seen::GrpcStatus(1));
    let stopped = ask(200, &[0, 0, 0, 0, 2, 8, 2], "0");
    assert_eq!(seen(&stopped), (Seen::GrpcStatus(2), "service \"shop\" is NOT_SERVING"));
    for (bad, words) in [
        (ask(200, &[], "12"), "does not implement"),
        (ask(200, &[], "5"), "gRPC status 5"),
        (ask(200, &[1, 2], "0"), "can't be understood"),
        (ask(404, &[], "0"), "HTTP status 404"),
    ] {
        assert!(matches!(bad, Answer::Failure(_)), "{bad:?}");
        assert!(seen(&bad).1.contains(words), "{bad:?}");
    }
    // A server that speaks something else.
    let (at, _) = serve("127.0.0.1", vec![answer("200 OK", "", "")]);
    let handler = Handler::Grpc { port: at.port(), service: String::new() };
    let other = super::tests::ask(handler, PATIENCE);
    assert!(matches!(other, Answer::Failure(_)), "{other:?}");
}

#[test]
fn a_sleep_is_a_success_when_it_is_over() {
    let begun = BootTime::now();
    let answer = ask(Handler::Sleep(Millis(60)), PATIENCE);
    assert_eq!(seen(&answer).0, Seen::Slept);
    assert!(BootTime::now().since(begun) >= Millis(60));
    let answer = ask(Handler::Sleep(PATIENCE), Millis(10));
    assert!(matches!(answer, Answer::Failure(_)));
}
