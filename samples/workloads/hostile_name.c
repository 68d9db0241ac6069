// Calls itself argv[2]: whatever 15 bytes the caller likes.
#include "truth.h"
#include <sys/prctl.h>

static struct truth truths[] = {{"hostile_work", 0}};

NOINLINE void hostile_work(void) { spin(2); }

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	if (argc < 3 || prctl(PR_SET_NAME, argv[2]) != 0)
		return 2;
	while (wall_ns() < end_ns)
		TIMED(truths[0].cpu_ns, hostile_work());
	print_truth(truths, 1);
	return 0;
}
