// A timer's signal handler that takes a good part of the time: its frames stand on what it
// interrupted.
#include "truth.h"
#include <signal.h>
#include <sys/time.h>

static struct truth truths[] = {{"interrupted", 0}, {"handler_work", 0}};

NOINLINE void handler_work(void) { spin(3); }

static void handle(int number) {
	(void)number;
	TIMED(truths[1].cpu_ns, handler_work());
}

NOINLINE void interrupted(void) { spin(1); }

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
	struct itimerval every = {{0, 5000}, {0, 5000}};
	if (sigaction(SIGALRM, &action, NULL) != 0 || setitimer(ITIMER_REAL, &every, NULL) != 0)
		return 1;
	while (wall_ns() < end_ns)
		TIMED(truths[0].cpu_ns, interrupted());
	struct itimerval never = {{0, 0}, {0, 0}};
	setitimer(ITIMER_REAL, &never, NULL);
	truths[0].cpu_ns -= truths[1].cpu_ns < truths[0].cpu_ns ? truths[1].cpu_ns : 0;
	print_truth(truths, 2);
	return 0;
}
