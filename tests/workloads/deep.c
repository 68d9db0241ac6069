/* A stack 400 frames deep, without frame pointers, through every kind of frame a compiler makes:
 * fixed, variable (alloca), aligned; with a leaf in user mode or in the kernel (argument "kernel"),
 * called from a second thread's entry point ("thread") or from main. Other modes: a busy signal
 * handler ("signal"), a forked child ("fork"), an exec at SIGUSR1 ("exec"). */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH 400
#define noinline __attribute__((noinline, noclone))

static volatile uint64_t sink;
static const char *mode = "user";
static volatile sig_atomic_t flag;

noinline void leaf(void)
{
	if (!strcmp(mode, "kernel")) {
		for (int i = 0; i < 1000; i++)
			syscall(SYS_getppid);
	} else {
		for (int i = 0; i < 100000; i++)
			sink = sink * 3 + i;
	}
	sink++;
}

noinline uint64_t fixed(int depth);

noinline uint64_t aligned(int depth)
{
	volatile uint64_t block[8] __attribute__((aligned(64)));
	block[depth & 7] = depth;
	uint64_t result = fixed(depth - 1);
	return result + block[depth & 7];
}

noinline uint64_t variable(int depth)
{
	volatile char *block = alloca(16 + depth % 97);
	block[depth % 16] = depth;
	uint64_t result = aligned(depth - 1);
	return result + block[depth % 16];
}

noinline uint64_t fixed(int depth)
{
	volatile uint64_t block[3];
	block[depth % 3] = depth;
	if (depth <= 0) {
		leaf();
		return block[0];
	}
	uint64_t result = variable(depth - 1);
	return result + block[depth % 3];
}

noinline void handler(int signal)
{
	for (int i = 0; i < 1000000; i++)
		sink = sink * 5 + i;
	sink += signal;
}

noinline void set_flag(int signal)
{
	flag = signal;
}

noinline void interrupted(void)
{
	for (;;) {
		sink = sink * 7;
		sink++;
	}
}

noinline void *thread(void *argument)
{
	for (;;)
		sink += fixed(DEPTH);
	return argument;
}

int main(int argc, char **argv)
{
	pthread_t id;

	if (argc > 1)
		mode = argv[1];
	puts("ready");
	fflush(stdout);
	if (!strcmp(mode, "signal")) {
		struct itimerval every = { { 0, 4000 }, { 0, 4000 } };

		signal(SIGALRM, handler);
		setitimer(ITIMER_REAL, &every, NULL);
		interrupted();
	}
	if (!strcmp(mode, "thread")) {
		pthread_create(&id, NULL, thread, NULL);
		pthread_join(id, NULL);
	}
	if (!strcmp(mode, "fork")) {
		if (fork() > 0)
			for (;;)
				pause();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	if (!strcmp(mode, "exec")) {
		signal(SIGUSR1, set_flag);
		while (!flag)
			sink += fixed(DEPTH);
		execl("/proc/self/exe", "deep", "user", NULL);
	}
	for (;;)
		sink += fixed(DEPTH);
}
