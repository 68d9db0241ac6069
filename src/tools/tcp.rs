//! What the TCP tools share: hooks, and events from the kernel side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::hooks::{Need, Shape, Way};
use super::kernel_side::printable_comm;
use crate::bpf::{Hook, Pod, split_record};

const AF_INET6: u16 = 10;

const INSTEAD: &str = "use a kernel built with CONFIG_INET, tracepoints and CONFIG_DEBUG_INFO_BTF; \
                       `ss -ti` shows the sockets that exist";

/// `struct tcp_event` of `ebpf/include/tcp.h`: a session's end or a retransmit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TcpEvent {
    /// From established to closed.
    pub duration_ns: u64,
    /// Bytes of data that the other end has acknowledged.
    pub sent_bytes: u64,
    /// Bytes of data received in order.
    pub received_bytes: u64,
    /// The socket's owner; 0 when unknown.
    pub tgid: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// In host order.
    pub local_port: u16,
    /// In host order.
    pub remote_port: u16,
    /// The state at the event; of a session, the last one before closed.
    pub state: u8,
    /// Whether a retransmit was a tail-loss probe.
    pub loss_probe: u8,
    /// Nothing.
    pub unused: u32,
    /// In network order; IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// In network order; IPv4 in the first four bytes.
    pub remote: [u8; 16],
    /// The owner's command.
    pub comm: [u8; 16],
}
// SAFETY: integers without padding, C layout.
unsafe impl Pod for TcpEvent {}

impl TcpEvent {
    /// From a record of the ring; `None` when it has another size.
    #[must_use]
    pub fn parse(record: &[u8]) -> Option<Self> {
        let (event, rest) = split_record(record)?;
        rest.is_empty().then_some(event)
    }

    /// 4 or 6.
    #[must_use]
    pub fn ip_version(&self) -> u8 {
        if self.family == AF_INET6 { 6 } else { 4 }
    }

    /// This end.
    #[must_use]
    pub fn local(&self) -> IpAddr {
        self.address(self.local)
    }

    /// The other end.
    #[must_use]
    pub fn remote(&self) -> IpAddr {
        self.address(self.remote)
    }

    /// The owner's command, fit to be printed.
    #[must_use]
    pub fn comm(&self) -> String {
        printable_comm(&self.comm)
    }

    /// As `ss` and bcc name it.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        const NAMES: [&str; 13] = [
            "UNKNOWN",
            "ESTABLISHED",
            "SYN_SENT",
            "SYN_RECV",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "TIME_WAIT",
            "CLOSE",
            "CLOSE_WAIT",
            "LAST_ACK",
            "LISTEN",
            "CLOSING",
            "NEW_SYN_RECV",
        ];
        NAMES.get(usize::from(self.state)).unwrap_or(&NAMES[0])
    }

    fn address(&self, bytes: [u8; 16]) -> IpAddr {
        if self.family == AF_INET6 {
            IpAddr::V6(Ipv6Addr::from(bytes))
        } else {
            let [a, b, c, d, ..] = bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
    }
}

/// Changes of a socket's state.
pub static STATES: Need = Need {
    what: "states of sockets",
    ways: &[Way {
        attach: &[("set_state", Hook::TpBtf("inet_sock_set_state"))],
        shape: Shape::Parameters(3),
        since: "4.16",
    }],
    instead: INSTEAD,
    optional: false,
};

/// Accepted connections.
pub static ACCEPTS: Need = Need {
    what: "owner of accepted sockets",
    ways: &[
        Way {
            attach: &[
                (
                    "accept4_exit",
                    Hook::Tracepoint("syscalls", "sys_exit_accept4"),
                ),
                (
                    "accept_exit",
                    Hook::Tracepoint("syscalls", "sys_exit_accept"),
                ),
            ],
            shape: Shape::Any,
            since: "5.10 and later, CONFIG_FTRACE_SYSCALLS, tracefs mounted",
        },
        Way {
            attach: &[("any_exit", Hook::TpBtf("sys_exit"))],
            shape: Shape::Parameters(2),
            since: "5.10 and later; at every system call's end",
        },
    ],
    instead: INSTEAD,
    optional: false,
};

/// Retransmitted segments.
pub static RETRANSMITS: Need = Need {
    what: "retransmitted segments",
    ways: &[
        Way {
            attach: &[("retransmit_with_error", Hook::TpBtf("tcp_retransmit_skb"))],
            shape: Shape::Parameters(3),
            since: "6.18",
        },
        Way {
            attach: &[("retransmit", Hook::TpBtf("tcp_retransmit_skb"))],
            shape: Shape::Parameters(2),
            since: "5.10 to 6.17",
        },
    ],
    instead: "use a kernel built with CONFIG_INET, tracepoints and CONFIG_DEBUG_INFO_BTF; \
              `nstat TcpRetransSegs` has the total",
    optional: false,
};

/// The program that finds the owners of sockets that are already there, and its iterator.
pub const ADOPT: (&str, &str) = ("adopt_sockets", "task_file");
