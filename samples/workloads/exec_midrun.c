// Runs half of its time as itself, then becomes another program (argv[2]) under the same process id
// for the other half. Each half prints its own line of truth.
#include "truth.h"

static struct truth truths[] = {{"before_exec", 0}};

NOINLINE void before_exec(void) { spin(2); }

int main(int argc, char **argv) {
	uint64_t start_ns = wall_ns();
	uint64_t half_ns = (deadline_ns(argc, argv) - start_ns) / 2;
	if (argc < 3)
		return 2;
	while (wall_ns() < start_ns + half_ns)
		TIMED(truths[0].cpu_ns, before_exec());
	print_truth(truths, 1);
	char seconds[32];
	snprintf(seconds, sizeof seconds, "%.3f", (double)half_ns / 1e9);
	execl(argv[2], argv[2], seconds, (char *)NULL);
	return 127;
}
