/* SPDX-License-Identifier: GPL-2.0 */
/* TCP sockets and the processes they belong to.
 *
 * Packets are handled in whatever task was interrupted, so the current task says nothing about a
 * socket. Its owner is the process that connected or accepted it; sockets that were there before
 * are found through everybody's open files, once. */
#pragma once
#include "files.h"
#include "filter.h"
#include "report.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
};

struct in6_addr {
	__u8 bytes[16];
};

struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
	__u16 skc_dport;
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
} __core;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} __core;

struct inet_sock {
	__u16 inet_sport;
} __core;

struct inet_connection_sock {
	__u8 icsk_ca_state : 5;
	__u8 icsk_pending;
} __core;

struct tcp_sock {
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 snd_una;
	__u32 write_seq;
} __core;

struct socket {
	struct sock *sk;
} __core;

/* What is known of a socket while it lives. */
struct session {
	/* When it was established (or connect began); 0 when that was before the tool. */
	__u64 born_ns;
	__u32 tgid;
	bool connected_out;
	bool wanted;
	char comm[TASK_COMM_LEN];
};

/* A session's end or a retransmit. Addresses as they are in packets; ports in host order. */
struct tcp_event {
	__u64 duration_ns;
	__u64 sent_bytes;
	__u64 received_bytes;
	__u32 tgid;
	__u16 family;
	__u16 local_port;
	__u16 remote_port;
	__u8 state;
	__u8 loss_probe;
	__u32 unused;
	struct in6_addr local;
	struct in6_addr remote;
	char comm[TASK_COMM_LEN];
};

/* No map has this struct as its value; this keeps it in the object's BTF, so that a test can
 * compare both sides. */
const volatile struct tcp_event event_layout = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

static __always_inline void own(struct session *session)
{
	session->tgid = bpf_get_current_pid_tgid() >> 32;
	session->wanted = current_wanted();
	bpf_get_current_comm(session->comm, sizeof(session->comm));
}

static __always_inline struct session *session_of(const struct sock *sk)
{
	__u64 address = (__u64)sk;
	return bpf_map_lookup_elem(&sessions, &address);
}

static __always_inline void begin_session(const struct sock *sk, bool connecting)
{
	__u64 address = (__u64)sk;
	struct session session = {.born_ns = bpf_ktime_get_ns(), .connected_out = connecting};
	if (connecting)
		own(&session);
	if (bpf_map_update_elem(&sessions, &address, &session, BPF_ANY))
		count_loss(start_map_full);
}

/* Keeps the book of sessions through a change of state; the end is the tool's. */
static __always_inline void follow_state(const struct sock *sk, int state)
{
	struct session *session;
	switch (state) {
	case TCP_SYN_SENT:
		begin_session(sk, true);
		break;
	case TCP_SYN_RECV:
		begin_session(sk, false);
		break;
	case TCP_ESTABLISHED:
		session = session_of(sk);
		if (session)
			session->born_ns = bpf_ktime_get_ns();
		else
			begin_session(sk, false);
		break;
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		/* Closed by a process that never accepted it in the usual way. */
		session = session_of(sk);
		if (session && !session->tgid)
			own(session);
		break;
	}
}

static __always_inline void end_session(const struct sock *sk)
{
	__u64 address = (__u64)sk;
	bpf_map_delete_elem(&sessions, &address);
}

/* A process accepted a connection as this descriptor. */
static __always_inline void accepted(__s64 descriptor)
{
	if (descriptor < 0)
		return;
	struct file *file = file_of_descriptor(descriptor);
	struct socket *socket = NULL;
	struct sock *sk = NULL;
	if (!file_is(file, S_IFSOCK))
		return;
	core_read(&socket, &file->private_data);
	core_read(&sk, &socket->sk);
	struct session *session = session_of(sk);
	if (session)
		own(session);
}

/* A socket that somebody has open at the start. */
static __always_inline void adopt(struct task_struct *task, struct file *file)
{
	struct socket *socket = NULL;
	struct sock *sk = NULL;
	__u16 family = 0, protocol = 0;
	__u8 state = 0;
	if (!file_is(file, S_IFSOCK))
		return;
	core_read(&socket, &file->private_data);
	core_read(&sk, &socket->sk);
	core_read(&family, &sk->__sk_common.skc_family);
	core_read(&protocol, &sk->sk_protocol);
	bpf_probe_read_kernel(&state, sizeof(state),
			      (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_state));
	if ((family != AF_INET && family != AF_INET6) || protocol != IPPROTO_TCP ||
	    state == TCP_CLOSE || state == TCP_LISTEN)
		return;
	__u64 address = (__u64)sk;
	struct session session = {.tgid = task->tgid};
	session.wanted = task_wanted(task, session.tgid);
	bpf_probe_read_kernel(session.comm, sizeof(session.comm),
			      (void *)__builtin_preserve_access_index(&task->comm));
	bpf_map_update_elem(&sessions, &address, &session, BPF_NOEXIST);
}

static __always_inline void describe_socket(const struct sock *sk, struct tcp_event *event)
{
	const struct sock_common *common = &sk->__sk_common;
	const struct inet_sock *inet = (const void *)sk;
	__u16 port = 0;
	core_read(&event->family, &common->skc_family);
	/* Not skc_num: that is 0 once a closing socket has given its port back. */
	core_read(&port, &inet->inet_sport);
	event->local_port = __builtin_bswap16(port);
	core_read(&port, &common->skc_dport);
	event->remote_port = __builtin_bswap16(port);
	if (event->family == AF_INET6) {
		core_read(&event->local, &common->skc_v6_rcv_saddr);
		core_read(&event->remote, &common->skc_v6_daddr);
	} else {
		bpf_probe_read_kernel(&event->local, 4,
				      __builtin_preserve_access_index(&common->skc_rcv_saddr));
		bpf_probe_read_kernel(&event->remote, 4,
				      __builtin_preserve_access_index(&common->skc_daddr));
	}
}

static __always_inline void describe_owner(const struct session *session,
					   struct tcp_event *event)
{
	event->tgid = session->tgid;
	__builtin_memcpy(event->comm, session->comm, sizeof(event->comm));
}

/* Whether the event of this session is asked for. */
static __always_inline bool session_wanted(const struct session *session)
{
	if (!filter_processes && !filter_cgroup_id)
		return true;
	return session && session->wanted;
}

#define SYS_ACCEPT 43
#define SYS_ACCEPT4 288

/* The format of every syscalls:sys_exit_* tracepoint. */
struct syscall_exit {
	__u64 common;
	__s64 number;
	__s64 result;
};

#define OWNER_PROGRAMS                                                                            \
	SEC("tracepoint/syscalls/sys_exit_accept") int accept_exit(struct syscall_exit *exit)     \
	{                                                                                         \
		accepted(exit->result);                                                           \
		return 0;                                                                         \
	}                                                                                         \
	SEC("tracepoint/syscalls/sys_exit_accept4") int accept4_exit(struct syscall_exit *exit)   \
	{                                                                                         \
		accepted(exit->result);                                                           \
		return 0;                                                                         \
	}                                                                                         \
	/* sys_exit(regs, ret): sees every call, so it is the second choice. */                   \
	SEC("tp_btf/sys_exit") int any_exit(__u64 *args)                                          \
	{                                                                                         \
		const struct pt_regs *regs = (void *)args[0];                                     \
		__u64 number = regs->orig_ax;                                                     \
		if (number == SYS_ACCEPT || number == SYS_ACCEPT4)                                \
			accepted(args[1]);                                                        \
		return 0;                                                                         \
	}                                                                                         \
	/* struct bpf_iter__task_file {meta, task, fd, file}: 5.8 and later. */                   \
	SEC("iter/task_file") int adopt_sockets(__u64 *context)                                   \
	{                                                                                         \
		struct task_struct *task = (void *)context[1];                                    \
		struct file *file = (void *)context[3];                                           \
		if (task && file)                                                                 \
			adopt(task, file);                                                        \
		return 0;                                                                         \
	}
