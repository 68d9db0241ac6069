// Burns at the bottom of argv[2] nested calls of `descend`.
#include "truth.h"

static struct truth truths[] = {{"bottom", 0}};

NOINLINE void bottom(void) { spin(4); }

NOINLINE void descend(unsigned left) {
	if (left > 1)
		descend(left - 1);
	else
		TIMED(truths[0].cpu_ns, bottom());
	__asm__ volatile("" ::: "memory"); // no tail call, no loop
}

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	unsigned depth = argc > 2 ? (unsigned)atoi(argv[2]) : 100;
	while (wall_ns() < end_ns)
		descend(depth);
	print_truth(truths, 1);
	return 0;
}
