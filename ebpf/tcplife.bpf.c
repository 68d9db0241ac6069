// SPDX-License-Identifier: GPL-2.0
/* TCP sessions with their bytes and duration. */
#include "tcp.h"

#define SOCK_DONE 1 /* enum sock_flags: the peer's FIN has come. */

OWNER_PROGRAMS

/* The kernel's counters number sequence space: a SYN and a FIN count like a byte of data. */
static __always_inline void count_bytes(const struct sock *sk, const struct session *session,
					int last_state, struct tcp_event *event)
{
	const struct tcp_sock *tcp = (const void *)sk;
	__u32 acked = 0, written = 0;
	__u64 sent = 0, received = 0;
	unsigned long flags = 0;
	core_read(&sent, &tcp->bytes_acked);
	core_read(&received, &tcp->bytes_received);
	core_read(&acked, &tcp->snd_una);
	core_read(&written, &tcp->write_seq);
	core_read(&flags, &sk->__sk_common.skc_flags);
	bool fin_sent = last_state == TCP_FIN_WAIT1 || last_state == TCP_FIN_WAIT2 ||
			last_state == TCP_CLOSING || last_state == TCP_LAST_ACK;
	bool fin_acked = fin_sent && acked == written;
	bool syn_acked = session->connected_out && last_state != TCP_SYN_SENT;
	bool fin_received = flags >> SOCK_DONE & 1;
	if (fin_acked && sent)
		sent--;
	if (syn_acked && sent)
		sent--;
	if (fin_received && received)
		received--;
	event->sent_bytes = sent;
	event->received_bytes = received;
}

/* inet_sock_set_state(sk, oldstate, newstate): 4.16 to 7.2. */
SEC("tp_btf/inet_sock_set_state")
int set_state(__u64 *args)
{
	const struct sock *sk = (void *)args[0];
	int last_state = args[1], state = args[2];
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (state != TCP_CLOSE) {
		follow_state(sk, state);
		return 0;
	}
	struct session *session = session_of(sk);
	if (!session)
		return 0;
	if (session->born_ns && session_wanted(session)) {
		struct tcp_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
		if (event) {
			__builtin_memset(event, 0, sizeof(*event));
			event->duration_ns = bpf_ktime_get_ns() - session->born_ns;
			event->state = last_state;
			describe_socket(sk, event);
			describe_owner(session, event);
			count_bytes(sk, session, last_state, event);
			bpf_ringbuf_submit(event, 0);
		} else {
			count_loss(ring_full);
		}
	}
	end_session(sk);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
