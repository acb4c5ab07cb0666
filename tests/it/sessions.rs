//! Commands in containers: `roost exec`, `kubectl exec`, and what of them must not be left.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use crate::harness::{Asked, FOREVER, Node, Process, send, soon};
use crate::images::{Layout, pod as pod_with_image};
use crate::terminal::roost;

fn exec(node: &Node, arguments: &[&str]) -> Command {
    let mut command = roost(node.root().to_str().unwrap());
    command.arg("exec").args(arguments);
    command
}

fn node_with(pod: &Asked) -> Node {
    let node = Node::started();
    node.ask_for(pod);
    node.until_running(&pod.key());
    node
}

/// Feeds the command from another thread, as a pipe would.
fn fed(mut command: Command, input: Vec<u8>) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // It may have ended before it took everything.
    feeding.join().unwrap().ok();
    output
}

/// Bytes in which every value is, in no order.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[test]
fn a_command_ends_as_its_program_does_and_both_outputs_are_kept_apart() {
    let node = node_with(&Asked::one("web", FOREVER));
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -15 $$", 143)] {
        let (found, out, err) = node.cli(&["exec", "web", "--", "sh", "-c", script]);
        assert_eq!((found, out.as_str(), err.as_str()), (code, "", ""), "{script}");
    }
    let script = "printf 'a\\0b\\377'; printf c >&2; exit 9";
    let done = exec(&node, &["pod/web", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(9), &b"a\0b\xff"[..]));
    assert_eq!(done.stderr, b"c");
    // Without -i there is nothing to read, and words are passed on as they are.
    assert_eq!(node.said(&["exec", "web", "--", "cat"]), "");
    assert_eq!(node.said(&["exec", "web", "--", "echo", "a b", "&c=d%20", "ü"]), "a b &c=d%20 ü\n");
    // What was written last is there, however much it is.
    let script = "head -c 300000 /dev/zero; exit 1";
    let done = exec(&node, &["web", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!((done.status.code(), done.stdout.len()), (Some(1), 300_000));
    node.end();
}

#[test]
fn what_can_not_be_executed_is_told_as_an_error() {
    let asked = Asked::one("two", FOREVER).container("other", FOREVER);
    let node = node_with(&asked);
    let refused = |arguments: &[&str], expected: &str| {
        let (code, out, err) = node.cli(&[&["exec"], arguments].concat());
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(expected), "{arguments:?}: {err}");
    };
    refused(&["nobody", "--", "true"], "pod default/nobody not found");
    refused(&["two", "--", "true"], "choose one of: [main other]");
    refused(&["two", "-c", "third", "--", "true"], "container \"third\" is not valid for pod");
    refused(&["two", "-c", "main", "--", "no-such"], "exec no-such: no such program in PATH");
    refused(&["two", "-c", "main", "--", "/etc"], "exec /etc: Permission denied");
    assert_eq!(node.said(&["exec", "two", "-c", "other", "--", "echo", "x"]), "x\n");

    node.ask_for(&Asked::one("over", "exit 0").policy("Never"));
    node.until("through", |pods| (pods.get("default/over")?.phase() == "Succeeded").then_some(()));
    refused(&["over", "--", "true"], "container main of pod over does not run now");

    // Who asks for something else than a WebSocket.
    let path = "/api/v1/namespaces/default/pods/two/exec?container=main&command=true&stdout=true";
    let (code, status) = node.ask("POST", path);
    assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")), "{status}");
    assert!(status["message"].as_str().unwrap().contains("WebSocket"), "{status}");
    let (code, status) = node.ask("GET", &path.replace("&stdout=true", ""));
    assert!(code == 400 && status["message"].as_str().unwrap().contains("stdin, stdout"));
    let (code, status) = node.ask("GET", &path.replace("command=true&", ""));
    assert!(code == 400 && status["message"].as_str().unwrap().contains("a command"), "{status}");
    node.end();
}

#[test]
fn ten_mebibytes_go_in_and_come_back_as_they_are() {
    let node = node_with(&Asked::one("web", FOREVER));
    let bytes = noise(10 << 20);
    let done = fed(exec(&node, &["-i", "web", "--", "cat"]), bytes.clone());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.stdout == bytes, "{} of {} bytes", done.stdout.len(), bytes.len());
    // A program that reads no more does not hold up its own end.
    let done = fed(exec(&node, &["-i", "web", "--", "head", "-c", "5"]), bytes.clone());
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(0), &bytes[..5]));
    node.end();
}

#[test]
fn a_program_is_what_the_container_s_own_is_and_has_nothing_else() {
    let asked = Asked::one("web", FOREVER)
        .with("/spec/containers/0/env", json!([{ "name": "COLOUR", "value": "blue" }]))
        .with("/spec/containers/0/workingDir", json!("/usr"))
        .with("/spec/containers/0/securityContext", json!({ "runAsUser": 4711, "runAsGroup": 7 }));
    let node = node_with(&asked);
    let said = |script: &str| node.said(&["exec", "web", "--", "sh", "-c", script]);
    assert_eq!(said("echo $COLOUR; pwd; id -u; id -g"), "blue\n/usr\n4711\n7\n");
    assert_eq!(said("test -w /dev/stdout && echo x > /dev/stdout"), "x\n");
    let of = |who: &str| {
        let fields = "^(NoNewPrivs|Seccomp|Cap...|Umask|Groups)";
        said(&format!(
            "grep -E '{fields}' /proc/{who}/status; grep 'open files' /proc/{who}/limits"
        ))
    };
    assert_eq!(of("1"), of("self"));
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let [one, own] = ["1", "self"].map(|who| said(&format!("readlink /proc/{who}/ns/{name}")));
        assert_eq!(one, own);
    }
    // `ls` opens the directory that it lists.
    assert_eq!(said("exec ls /proc/self/fd"), "0\n1\n2\n3\n");
    node.end();
}

#[test]
fn a_container_without_a_shell_can_be_executed_in() {
    let node = Node::new();
    let image = Layout::make(node.dir.path().join("image"));
    image.holds("1", &json!({}));
    let mut node = node;
    node.start();
    let asked = pod_with_image("bare", &image.name(), "")
        .with("/spec/containers/0/command", json!(["/usr/bin/sleep", "1000"]));
    node.ask_for(&asked);
    node.until_running("default/bare");
    assert_eq!(node.said(&["exec", "bare", "--", "/usr/bin/cat", "/version"]), "1");
    let (code, _, err) = node.cli(&["exec", "bare", "--", "/opt/no-shell", "-c", "true"]);
    assert!(code == 1 && err.contains("exec /opt/no-shell: No such file"), "{err}");
    node.end();
}

#[test]
fn on_a_terminal_it_has_that_size_and_what_was_changed_is_put_right() {
    let node = node_with(&Asked::one("web", FOREVER));
    let pty = nix::pty::openpty(None, None).unwrap();
    let size = |rows, columns| {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&pty.master, size).unwrap();
    };
    let modes = || {
        let modes = rustix::termios::tcgetattr(&pty.slave).unwrap();
        (modes.input_modes, modes.output_modes, modes.local_modes)
    };
    size(33, 44);
    let before = modes();
    let end = || -> OwnedFd { pty.slave.try_clone().unwrap() };
    let script = "stty size; tty; echo ready; read line; stty size; echo got $line; exit 6";
    let mut child = exec(&node, &["-it", "web", "--", "sh", "-c", script])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let mut master = File::from(pty.master.try_clone().unwrap());
    let mut text = String::new();
    let mut until = |expected: &str| {
        let mut buffer = [0; 4096];
        while !text.contains(expected) {
            let count = master.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        text.clone()
    };
    let said = until("ready");
    assert!(said.contains("33 44\r\n/dev/pts/0\r\n"), "{said:?}");
    assert_ne!(modes(), before, "keys are the program's");
    size(55, 66);
    // The terminal is not its controlling one: as the shell there would tell it.
    send(child.id(), nix::libc::SIGWINCH);
    // The size comes before what is typed after it was seen.
    let in_order = || {
        let (_, said, _) = node.cli(&["exec", "web", "--", "stty", "-F", "/dev/pts/0", "size"]);
        said
    };
    while in_order() != "55 66\n" {
        std::thread::yield_now();
    }
    File::from(pty.master.try_clone().unwrap()).write_all(b"words\r").unwrap();
    let said = until("got words");
    assert!(said.contains("55 66\r\n"), "{said:?}");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert_eq!(modes(), before);

    // Also when it is told to end.
    let mut child = exec(&node, &["-it", "web", "--", "sh", "-c", "echo again; exec sleep 1000"])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    until("again");
    send(child.id(), nix::libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(modes(), before);
    // What is no terminal is said so, and the command goes on without.
    let done = exec(&node, &["-it", "web", "--", "tty"]).output().unwrap();
    assert!(done.stderr.starts_with(b"The command gets no terminal"), "{done:?}");
    assert_eq!(done.stdout, b"not a tty\n");
    node.end();
}

#[test]
fn when_the_client_or_the_agent_is_gone_nothing_of_a_session_is_left() {
    // Pids are the host's.
    let mut node = node_with(&Asked::one("web", FOREVER).with("/spec/hostPID", json!(true)));
    let pod = node.pod("default/web");
    let script = "trap '' HUP TERM; setsid sleep 1000 & echo $$ $!; while :; do sleep 1; done";
    for by in ["client", "agent"] {
        let mut child = exec(&node, &["-i", "web", "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let line = first_line(&mut child);
        let found = line.split_whitespace().map(|pid| Process::find(pid.parse().unwrap()).unwrap());
        let processes: Vec<Process> = found.collect();
        assert_eq!(processes.len(), 2);
        // What is sent and never read must not keep it.
        let stdin = child.stdin.as_mut().unwrap();
        rustix::io::ioctl_fionbio(&*stdin, true).unwrap();
        while stdin.write(&[b'x'; 4096]).is_ok() {}
        if by == "client" {
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            node.kill_agent();
            let done = child.wait_with_output().unwrap();
            assert_eq!(done.status.code(), Some(3), "{done:?}");
        }
        for process in &processes {
            process.ends_within(soon());
        }
    }
    node.start();
    assert_eq!(node.until_running("default/web").processes(), pod.processes());
    node.end();
}

#[test]
fn a_reader_that_stalls_holds_up_nobody_else() {
    let node = node_with(&Asked::one("web", FOREVER));
    let script = "head -c 10485760 /dev/zero; exit 5";
    let stalled: Vec<Child> = (0..8)
        .map(|_| {
            exec(&node, &["web", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(node.said(&["exec", "web", "--", "echo", "x"]), "x\n");
    }
    for child in stalled {
        let done = child.wait_with_output().unwrap();
        assert_eq!((done.status.code(), done.stdout.len()), (Some(5), 10 << 20));
    }
    node.end();
}

#[test]
fn fifty_sessions_at_once_get_each_their_own() {
    let node = node_with(&Asked::one("web", FOREVER));
    let children: Vec<Child> = (0..50)
        .map(|number| {
            let script = format!("read line; echo $line {number}; exit {number}");
            exec(&node, &["-i", "web", "--", "sh", "-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (number, mut child) in (0..50).zip(children).rev() {
        child.stdin.take().unwrap().write_all(b"number\n").unwrap();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(number));
        assert_eq!(String::from_utf8(done.stdout).unwrap(), format!("number {number}\n"));
    }
    node.end();
}

#[test]
fn a_port_leads_to_the_pod_s_own_loopback_interface() {
    // Sends back what it gets, once it has got all of it.
    let server = "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 7))\ns.listen(64)\n\
                  while True:\n c = s.accept()[0]\n b = b''.join(iter(lambda: c.recv(65536), b''))\n \
                  c.sendall(b)\n c.close()\n";
    let asked = Asked::pod("echo")
        .container("main", "")
        .with("/spec/containers/0/command", json!(["/usr/bin/python3", "-c", server]));
    let asked = asked.with(
        "/spec/containers/0/readinessProbe",
        json!({ "tcpSocket": { "port": 7, "host": "127.0.0.1" }, "periodSeconds": 1 }),
    );
    let node = node_with(&asked);
    node.said(&["wait", "pod", "echo", "--for=condition=Ready"]);
    let mut command = roost(node.root().to_str().unwrap());
    command.args(["port-forward", "echo", ":7", ":8"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        let address = line.strip_prefix("Forwarding from ").unwrap().to_owned();
        address.split_once(" -> ").unwrap().0.to_owned()
    };
    let (there, closed) = (next(), next());
    let bytes = noise(2 << 20);
    // One after the other: so is the server.
    for _ in 0..10 {
        let mut stream = TcpStream::connect(&there).unwrap();
        stream.write_all(&bytes).unwrap();
        // The end of one direction is passed on, and the other goes on.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == bytes, "{} bytes", back.len());
    }
    // Nobody listens there: the connection ends, and why is said.
    let mut stream = TcpStream::connect(&closed).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("connecting to port 8 of the pod failed"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    let (code, _, err) = node.cli(&["port-forward", "nobody", "80"]);
    assert!(code == 1 && err.contains("pod default/nobody not found"), "{err}");

    if has_kubectl() {
        let relay = Relay::to(&node);
        let done = relay.kubectl(&["port-forward", "pod/echo", ":7"]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("use `roost port-forward`"), "{said}");
    }
    node.end();
}

/// Passes connections to a port of the loopback interface on to the agent's socket, as long as it
/// is there.
struct Relay {
    url: String,
}

impl Relay {
    fn to(node: &Node) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let socket = node.root().join("run/roost.sock");
        // Ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(unix) = UnixStream::connect(&socket) else { continue };
                relay(stream.unwrap(), unix);
            }
        });
        Self { url }
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(["--server", &self.url, "--cache-dir", "/nonexistent"]).args(arguments);
        command.env("KUBECONFIG", "/dev/null").env_remove("http_proxy").env_remove("HTTP_PROXY");
        command.stdin(Stdio::null());
        command
    }
}

fn relay(tcp: TcpStream, unix: UnixStream) {
    let (mut tcp_in, mut unix_out) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
    std::thread::spawn(move || {
        std::io::copy(&mut tcp_in, &mut unix_out).ok();
        unix_out.shutdown(std::net::Shutdown::Write).ok();
    });
    std::thread::spawn(move || {
        let (mut unix_in, mut tcp_out) = (unix, tcp);
        std::io::copy(&mut unix_in, &mut tcp_out).ok();
        tcp_out.shutdown(std::net::Shutdown::Both).ok();
        unix_in.shutdown(std::net::Shutdown::Both).ok();
    });
}

/// Whether there is a kubectl; a test that finds none says so.
fn has_kubectl() -> bool {
    let found = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    if !found {
        eprintln!("skipped: there is no kubectl here");
    }
    found
}

#[test]
fn kubectl_executes_as_it_does_in_a_cluster() {
    if !has_kubectl() {
        return;
    }
    let node = node_with(&Asked::one("web", FOREVER).container("other", FOREVER));
    let relay = Relay::to(&node);
    let exec = |arguments: &[&str]| relay.kubectl(&[&["exec"], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let script = "echo out; echo err >&2; exit 3";
    let done = exec(&["web", "-c", "main", "--", "sh", "-c", script]).output().unwrap();
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    assert_eq!((done.status.code(), out.as_str()), (Some(3), "out\n"), "{err}");
    assert!(err.starts_with("err\n") && err.contains("exit code 3"), "{err}");
    let done = exec(&["web", "-c", "other", "--", "true"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");

    let bytes = noise(3 << 20);
    let done = fed(exec(&["-i", "web", "-c", "main", "--", "cat"]), bytes.clone());
    assert!(done.status.success() && done.stdout == bytes, "{}", text(&done.stderr));

    let done = exec(&["web", "-c", "main", "--", "no-such"]).output().unwrap();
    let err = text(&done.stderr);
    assert!(!done.status.success() && err.contains("exec no-such: no such program"), "{err}");
    let done = exec(&["web", "-c", "none", "--", "true"]).output().unwrap();
    assert!(text(&done.stderr).contains("container \"none\" is not valid"), "{done:?}");
    let done = exec(&["nobody", "--", "true"]).output().unwrap();
    assert!(text(&done.stderr).contains("pods \"nobody\" not found"), "{done:?}");

    // Who insists on SPDY is told what to use.
    let mut old = exec(&["web", "-c", "main", "--", "true"]);
    let done = old.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false").output().unwrap();
    assert!(text(&done.stderr).contains("SPDY is not supported"), "{done:?}");

    let pty = nix::pty::openpty(None, None).unwrap();
    let size = rustix::termios::Winsize { ws_row: 20, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&pty.master, size).unwrap();
    // Its size comes after the beginning.
    let script = "while [ \"$(stty size)\" = '0 0' ]; do :; done; stty size; exit 4";
    let end = || -> OwnedFd { pty.slave.try_clone().unwrap() };
    let mut child = exec(&["-it", "web", "-c", "main", "--", "sh", "-c", script])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let code = child.wait().unwrap().code();
    drop((pty.slave, child));
    let mut said = Vec::new();
    File::from(pty.master).read_to_end(&mut said).ok();
    assert!(text(&said).contains("20 30"), "{:?}", text(&said));
    assert_eq!(code, Some(4), "{:?}", text(&said));
    node.end();
}

#[test]
fn kubectl_copies_files_into_a_container_and_out_of_it() {
    if !has_kubectl() {
        return;
    }
    let asked =
        Asked::one("web", FOREVER).mounting(&json!({ "name": "files", "emptyDir": {} }), "/files");
    let node = node_with(&asked);
    let relay = Relay::to(&node);
    let bytes = noise(1 << 20);
    let [here, back] = ["here", "back"].map(|name| node.out().join(name));
    std::fs::write(&here, &bytes).unwrap();
    let copy = |from: &str, to: &str| {
        let done = relay.kubectl(&["cp", from, to]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    copy(here.to_str().unwrap(), "web:/files/there");
    copy("web:/files/there", back.to_str().unwrap());
    assert!(std::fs::read(back).unwrap() == bytes);
    node.end();
}
