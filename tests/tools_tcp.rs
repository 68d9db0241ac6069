//! `tcplife` and `tcpretrans` against sessions of known bytes, and segments that are lost for sure
//! in a network of the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use support::tool::{Running, alone_and_privileged, alone_with, list, number, own_pid, sum_of};

const REPLY: usize = 5000;
const HOLD: Duration = Duration::from_millis(60);

/// One session after the other, each of one size; holds each open for a while. The server's port.
fn sessions(address: &str, sizes: &[usize]) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let server: SocketAddr = listener.local_addr().unwrap();
    let count = sizes.len();
    let thread = std::thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
            std::thread::sleep(HOLD);
            stream.write_all(&[7; REPLY]).unwrap();
        }
    });
    for size in sizes {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.write_all(&vec![7; *size]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    thread.join().unwrap();
    // The last segments of a session come after its last system call.
    std::thread::sleep(Duration::from_millis(300));
    server.port()
}

/// Bytes sent and received, by events whose `end` is this port.
fn bytes_at(events: &[Value], end: &str, port: u16) -> Vec<(u64, u64)> {
    let of_end = events.iter().filter(|event| event[end] == port);
    let bytes = of_end.map(|event| {
        assert_eq!(event["pid"], std::process::id(), "{event}");
        (number(event, "tx_bytes"), number(event, "rx_bytes"))
    });
    let mut bytes: Vec<_> = bytes.collect();
    bytes.sort_unstable();
    bytes
}

#[test]
fn tcplife_knows_the_bytes_the_time_and_the_owner_of_both_ends() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    const SIZES: [usize; 3] = [1, 10_000, 3_000_000];
    let pid = own_pid();
    let all = Running::start(&["tcplife", "-p", &pid]);
    let (v4, v6) = (
        Running::start(&["tcplife", "-4"]),
        Running::start(&["tcplife", "-6"]),
    );
    let port = sessions("127.0.0.1:0", &SIZES);
    let port6 = sessions("[::1]:0", &[77]);
    let events = all.finish();
    let reply = REPLY as u64;
    let up = SIZES.map(|size| (size as u64, reply));
    assert_eq!(bytes_at(&events, "rport", port), up);
    assert_eq!(
        bytes_at(&events, "lport", port),
        SIZES.map(|size| (reply, size as u64))
    );
    for event in events.iter().filter(|event| event["rport"] == port) {
        assert!(
            event["duration_ms"].as_f64().unwrap() >= HOLD.as_millis() as f64,
            "{event}"
        );
    }
    let (v4, v6) = (v4.finish(), v6.finish());
    assert_eq!(bytes_at(&v4, "rport", port), up);
    assert_eq!(bytes_at(&v4, "rport", port6), []);
    assert_eq!(bytes_at(&v6, "rport", port), []);
    assert_eq!(bytes_at(&v6, "rport", port6), [(77, reply)]);
    assert!(v6.iter().all(|event| event["ip"] == 6));
}

#[test]
fn tcplife_picks_ports_and_prints_bccs_columns() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = reserved.local_addr().unwrap().port();
    drop(reserved);
    let text = port.to_string();
    let start = |options: &[&str]| Running::start_as_text(&[&["tcplife"], options].concat());
    let local = start(&["-L", &text]);
    let remote = start(&["-D", &text, "-T", "-t", "--csv"]);
    let wide = start(&["-D", &text, "-w"]);
    assert_eq!(sessions(&format!("127.0.0.1:{port}"), &[20_480]), port);
    let pid = own_pid();
    let fields =
        |line: &str| -> Vec<String> { line.split_whitespace().map(String::from).collect() };
    let (local, wide) = (local.finish_as_text(), wide.finish_as_text());

    let lines: Vec<_> = local.lines().map(fields).collect();
    assert_eq!(
        lines[0],
        fields("PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS")
    );
    assert_eq!(lines.len(), 2, "{local}");
    let row = &lines[1];
    assert_eq!(
        (&row[0], &row[2], &row[3], &row[4]),
        (&pid, &"127.0.0.1".into(), &text, &"127.0.0.1".into())
    );
    // 5000 bytes are 4 KB, as in bcc.
    assert_eq!((row[6].as_str(), row[7].as_str()), ("4", "20"));

    let lines: Vec<_> = wide.lines().map(fields).collect();
    assert_eq!(
        lines[0],
        fields("PID COMM IP LADDR LPORT RADDR RPORT TX_KB RX_KB MS")
    );
    assert_eq!(
        (lines.len(), lines[1][2].as_str(), &lines[1][6]),
        (2, "4", &text)
    );

    let remote = remote.finish_as_text();
    let lines: Vec<Vec<&str>> = remote
        .lines()
        .map(|line| line.split(',').collect())
        .collect();
    assert_eq!(
        lines[0].join(","),
        "TIME,TIME(s),PID,COMM,IP,LADDR,LPORT,RADDR,RPORT,TX_KB,RX_KB,MS"
    );
    assert_eq!(
        (lines.len(), lines[1].len()),
        (2, lines[0].len()),
        "{remote}"
    );
    assert_eq!(
        (lines[1][2], lines[1][8], lines[1][9]),
        (pid.as_str(), text.as_str(), "20")
    );
    assert_eq!(lines[1][0].len(), "23:59:59".len());
    assert!(lines[1][1].parse::<f64>().unwrap() > 0.0 && lines[1][11].parse::<f64>().is_ok());
}

/// Runs in a thread with a network of its own, which goes with it.
fn in_own_network<T: Send + 'static>(name: &str, load: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().name(name.into());
    let thread = thread.spawn(|| {
        // SAFETY: changes this thread's namespace alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        load()
    });
    thread.unwrap().join().unwrap()
}

fn ip(arguments: &str) {
    support::succeed(Command::new("ip").args(arguments.split(' ')));
}

/// Loads a rule set into the calling thread's network.
fn nft(rules: &str) {
    let mut nft = Command::new("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin
        .take()
        .unwrap()
        .write_all(rules.as_bytes())
        .unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

/// A counter of the calling thread's network namespace.
fn network_counter(file: &str, group: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let mut columns = lines.next().unwrap().split(' ');
    let column = columns.position(|column| column == name).unwrap();
    let value = lines.next().unwrap().split(' ').nth(column);
    value.unwrap().parse().unwrap()
}

/// The kernel counts segments that it could not send among the retransmitted ones.
fn retransmitted_segments() -> u64 {
    let segments = network_counter("snmp", "Tcp:", "RetransSegs");
    let failed = network_counter("netstat", "TcpExt:", "TCPRetransFail");
    println!("{segments} retransmitted, {failed} of them failed");
    segments - failed
}

/// The tracepoint's hits, counted by the plainest program there is.
const HITS: [&str; 2] = ["funccount", "t:tcp:tcp_retransmit_skb"];

/// How many of the segments that the kernel counted any program can have seen. What happens while
/// the agent of some virtual machines is interrupted is hidden from tracing, for `perf` as well.
fn visible(counted: u64, hits: Running) -> u64 {
    let hits = sum_of(list(&hits.report(), "functions"), "count", |_| true);
    let hidden = counted.saturating_sub(hits);
    println!("{hidden} of {counted} hidden from tracing");
    assert!(
        hidden <= 1 + counted / 20,
        "{hidden} of {counted} were not reported"
    );
    counted - hidden
}

/// The rows of `tcpretrans --by-comm` of one command.
fn charged_to(report: &Value, comm: &str) -> u64 {
    sum_of(list(report, "commands"), "retransmits", |row| {
        row["comm"] == comm
    })
}

/// Nobody else's.
const LOST_ADDRESS: [u8; 4] = [127, 99, 0, 2];

fn tcp_socket(tries: libc::c_int) -> OwnedFd {
    // SAFETY: a socket call with plain arguments, and an option of our own socket.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        assert!(socket >= 0);
        let size = size_of::<libc::c_int>() as u32;
        let tries = (&raw const tries).cast();
        let set = libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, tries, size);
        assert_eq!(set, 0);
        OwnedFd::from_raw_fd(socket)
    }
}

/// Connects to a listener whose queue is full; it needs no more than a loopback device.
fn connect_in_vain(tries: libc::c_int) {
    // SAFETY: all zeros are an address.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = 9_u16.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(LOST_ADDRESS);
    let size = size_of::<libc::sockaddr_in>() as u32;
    let address = (&raw const address).cast();
    let [listener, waiting, lost] = [(); 3].map(|()| tcp_socket(tries));
    // A queue of accepted connections has one place more than it was asked for; a connection
    // request that comes when it is full is dropped.
    // SAFETY: plain socket calls on descriptors and an address of our own.
    unsafe {
        assert_eq!(libc::bind(listener.as_raw_fd(), address, size), 0);
        assert_eq!(libc::listen(listener.as_raw_fd(), 0), 0);
        assert_eq!(libc::connect(waiting.as_raw_fd(), address, size), 0);
        // Its last packet may still be on the way into the queue.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(libc::connect(lost.as_raw_fd(), address, size), -1);
    }
}

#[test]
fn tcpretrans_counts_each_lost_syn_and_charges_the_caller() {
    let Some(_alone) = alone_with(&["ip"]) else {
        return;
    };
    const RETRANSMITS: u16 = 2;
    let tool = Running::start(&["tcpretrans"]);
    let by_comm = Running::start(&["tcpretrans", "--by-comm"]);
    let hits = Running::start(&HITS);
    let counted = in_own_network("lost-caller", || {
        ip("link set lo up");
        connect_in_vain(RETRANSMITS.into());
        retransmitted_segments()
    });
    // Kernels since 6.5 may try some times more before the limit counts.
    assert!(counted >= RETRANSMITS.into());
    let counted = visible(counted, hits);
    let events = tool.finish();
    let address = LOST_ADDRESS.map(|byte| byte.to_string()).join(".");
    let ours: Vec<_> = events
        .iter()
        .filter(|event| event["raddr"] == address)
        .collect();
    assert_eq!(ours.len() as u64, counted);
    for event in ours {
        assert_eq!(event["pid"], std::process::id());
        assert_eq!(event["comm"], "lost-caller");
        assert_eq!(event["state"], "SYN_SENT");
    }
    assert_eq!(charged_to(&by_comm.report(), "lost-caller"), counted);
}

/// Every eighth segment is lost on its way in, and the longest ones when they come first.
const LOSSY: &str = "
table ip lossy {
    chain arriving {
        type filter hook input priority 0
        tcp dport 7777 meta length 1300-1400 numgen inc mod 2 0 drop
        tcp dport 7777 meta length 200-1299 numgen inc mod 8 7 drop
    }
}
";
const SEGMENTS: usize = 400;
const SEGMENT: [u8; 1000] = [7; 1000];
const TAIL: [u8; 1300] = [8; 1300];
/// After this many segments the sender waits, and what was last gets lost: only a probe tells.
const BURST: usize = 100;

/// Small segments, each alone on its way.
fn send_through_losses(mut stream: TcpStream) {
    for index in 1..=SEGMENTS {
        stream.write_all(&SEGMENT).unwrap();
        std::thread::sleep(Duration::from_millis(if index % 20 == 0 { 15 } else { 0 }));
        if index % BURST == 0 {
            stream.write_all(&SEGMENT).unwrap();
            stream.write_all(&TAIL).unwrap();
            std::thread::sleep(Duration::from_millis(400));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // Until everything has arrived.
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn tcpretrans_counts_each_lost_segment_of_established_connections() {
    let Some(_alone) = alone_with(&["ip", "nft"]) else {
        return;
    };
    let start = |options: &[&str]| Running::start(&[&["tcpretrans"], options].concat());
    let hits = Running::start(&HITS);
    let (before, tools, counted) = in_own_network("lossy-sender", move || {
        ip("link set lo up");
        nft(LOSSY);
        let listener = TcpListener::bind("127.0.0.1:7777").unwrap();
        let server = std::thread::Builder::new().name("lossy-receiver".into());
        let server = server.spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || {
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).unwrap();
                    let bursts = SEGMENTS / BURST;
                    let sent = (SEGMENTS + bursts) * SEGMENT.len() + bursts * TAIL.len();
                    assert_eq!(received.len(), sent);
                });
            }
        });
        // Connected before there was a tool: found through this process's open files.
        let early = TcpStream::connect("127.0.0.1:7777").unwrap();
        let early_port = early.local_addr().unwrap().port();
        early.set_nodelay(true).unwrap();
        let tools = [&["-l"][..], &[], &["-l", "-c"], &["-l", "--by-comm"]].map(start);
        send_through_losses(early);
        let late = TcpStream::connect("127.0.0.1:7777").unwrap();
        late.set_nodelay(true).unwrap();
        send_through_losses(late);
        server.unwrap().join().unwrap();
        let probes = network_counter("netstat", "TcpExt:", "TCPLossProbes");
        (early_port, tools, (retransmitted_segments(), probes))
    });
    let (retransmitted, loss_probes) = counted;
    let retransmitted = visible(retransmitted, hits);
    let [with_probes, without, flows, commands] = tools;
    let ours = |event: &&Value| event["rport"] == 7777 && event["laddr"] == "127.0.0.1";
    let events = with_probes.finish();
    let events: Vec<_> = events.iter().filter(ours).collect();
    assert_eq!(events.len() as u64, retransmitted);
    assert!(
        retransmitted >= 50,
        "an eighth of 800 segments: {retransmitted}"
    );
    let pid = std::process::id();
    for event in &events {
        assert_eq!(event["pid"], pid, "{event}");
        let early = event["lport"] == before;
        assert!(early || event["comm"] == "lossy-sender", "{event}");
        assert_ne!(event["state"], "SYN_SENT");
    }
    let tails = events.iter().filter(|event| event["type"] == "L").count();
    println!(
        "{tails} tail-loss probes among {} retransmits, {loss_probes} probes",
        events.len()
    );
    // Probes may carry new data instead.
    assert!((1..=loss_probes).contains(&(tails as u64)));
    let without = without.finish();
    assert_eq!(without.iter().filter(ours).count(), events.len() - tails);

    let flows = flows.report();
    let to_server = |row: &Value| row["remote"] == "127.0.0.1:7777";
    assert_eq!(
        list(&flows, "flows")
            .iter()
            .filter(|row| to_server(row))
            .count(),
        2
    );
    assert_eq!(
        sum_of(list(&flows, "flows"), "retransmits", to_server),
        retransmitted
    );
    let late = events
        .iter()
        .filter(|event| event["lport"] != before)
        .count();
    let commands = commands.report();
    assert!(
        late > 0 && charged_to(&commands, "lossy-sender") >= late as u64,
        "{commands}"
    );
}
