// Three functions of unequal cost (10 : 30 : 60) behind one chain: main → work → each of them.
#include "truth.h"

static struct truth truths[] = {{"cheap", 0}, {"medium", 0}, {"costly", 0}};

NOINLINE void cheap(void) { spin(1); }
NOINLINE void medium(void) { spin(3); }
NOINLINE void costly(void) { spin(6); }

NOINLINE void work(void) {
	TIMED(truths[0].cpu_ns, cheap());
	TIMED(truths[1].cpu_ns, medium());
	TIMED(truths[2].cpu_ns, costly());
}

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	while (wall_ns() < end_ns)
		work();
	print_truth(truths, 3);
	return 0;
}
