// The child of short_lived.c: burns argv[1] milliseconds of wall time, then reports the CPU time
// its work took as a raw u64 on descriptor 3.
#include "truth.h"

NOINLINE void tiny_work(void) { spin(1); }

int main(int argc, char **argv) {
	uint64_t cpu_ns = 0;
	uint64_t end_ns = wall_ns() + (argc > 1 ? strtoull(argv[1], NULL, 10) : 20) * 1000000ull;
	while (wall_ns() < end_ns)
		TIMED(cpu_ns, tiny_work());
	return write(3, &cpu_ns, sizeof cpu_ns) == sizeof cpu_ns ? 0 : 1;
}
