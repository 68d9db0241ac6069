// SPDX-License-Identifier: GPL-2.0
/* Retransmitted TCP segments, with the owner of the socket. */
#include "tcp.h"

#define ICSK_TIME_LOSS_PROBE 5
#define TCP_CA_OPEN 0
#define TCP_CA_CWR 2

const volatile bool with_loss_probes = false;

OWNER_PROGRAMS

/* inet_sock_set_state(sk, oldstate, newstate): 4.16 to 7.2. */
SEC("tp_btf/inet_sock_set_state")
int set_state(__u64 *args)
{
	const struct sock *sk = (void *)args[0];
	int state = args[2];
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (state == TCP_CLOSE)
		end_session(sk);
	else
		follow_state(sk, state);
	return 0;
}

/* A probe for the loss of the tail is sent from its own timer, while nothing is known to be
 * lost; every other retransmit happens in recovery or in loss. */
static __always_inline bool is_loss_probe(const struct sock *sk)
{
	const struct inet_connection_sock *connection = (const void *)sk;
	__u8 pending = 0;
	core_read(&pending, &connection->icsk_pending);
	if (pending != ICSK_TIME_LOSS_PROBE)
		return false;
	__u64 congestion = core_read_bitfield(connection, icsk_ca_state);
	return congestion == TCP_CA_OPEN || congestion == TCP_CA_CWR;
}

static __always_inline int send_retransmit(const struct sock *sk)
{
	bool loss_probe = is_loss_probe(sk);
	if (loss_probe && !with_loss_probes)
		return 0;
	struct session *session = session_of(sk);
	if (!session_wanted(session))
		return 0;
	struct tcp_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count_loss(ring_full);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->loss_probe = loss_probe;
	bpf_probe_read_kernel(&event->state, sizeof(event->state),
			      (void *)__builtin_preserve_access_index(&sk->__sk_common.skc_state));
	describe_socket(sk, event);
	if (session)
		describe_owner(session, event);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* tcp_retransmit_skb(sk, skb): 5.10 to 6.17. */
SEC("tp_btf/tcp_retransmit_skb")
int retransmit(__u64 *args)
{
	return send_retransmit((void *)args[0]);
}

/* tcp_retransmit_skb(sk, skb, err): 6.18. Called for segments that could not be sent, too. */
SEC("tp_btf/tcp_retransmit_skb")
int retransmit_with_error(__u64 *args)
{
	if ((int)args[2])
		return 0;
	return send_retransmit((void *)args[0]);
}

char LICENSE[] SEC("license") = "GPL";
