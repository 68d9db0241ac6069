// Named threads with unequal shares (1 : 2 : 4), each in a function of its own.
#include "truth.h"
#include <pthread.h>

static struct truth truths[] = {{"light", 0}, {"middle", 0}, {"heavy", 0}};
static uint64_t end_ns;

// Naps between the rounds keep a thread's share below one CPU, so that two CPUs carry all three.
static void nap(void) {
	struct timespec pause = {.tv_nsec = 3000000};
	nanosleep(&pause, NULL);
}

NOINLINE void spin_light(void) { spin(1); }
NOINLINE void spin_middle(void) { spin(2); }
NOINLINE void spin_heavy(void) { spin(4); }

static void (*const rounds[])(void) = {spin_light, spin_middle, spin_heavy};

static void *thread_main(void *argument) {
	long index = (long)argument;
	pthread_setname_np(pthread_self(), truths[index].name);
	while (wall_ns() < end_ns) {
		rounds[index]();
		nap();
	}
	truths[index].cpu_ns = thread_cpu_ns();
	return NULL;
}

int main(int argc, char **argv) {
	end_ns = deadline_ns(argc, argv);
	pthread_t threads[3];
	for (long i = 0; i < 3; i++)
		if (pthread_create(&threads[i], NULL, thread_main, (void *)i))
			return 1;
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	print_truth(truths, 3);
	return 0;
}
