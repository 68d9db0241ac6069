// The first thread ends at once, a second one works on: `ps` shows a zombie that is none.
#include "truth.h"
#include <pthread.h>

static struct truth truths[] = {{"survivor_work", 0}};
static uint64_t end_ns;

NOINLINE void survivor_work(void) { spin(2); }

static void *survivor(void *unused) {
	while (wall_ns() < end_ns)
		TIMED(truths[0].cpu_ns, survivor_work());
	print_truth(truths, 1);
	exit(0);
	return unused;
}

int main(int argc, char **argv) {
	end_ns = deadline_ns(argc, argv);
	pthread_t thread;
	if (pthread_create(&thread, NULL, survivor, NULL))
		return 1;
	pthread_exit(NULL);
}
