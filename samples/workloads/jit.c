// A just-in-time compiler in small: machine code in anonymous executable memory, named by
// /tmp/perf-PID.map. It removes the map at its end.
#include "truth.h"
#include <string.h>
#include <sys/mman.h>

static struct truth truths[] = {{"jit_hot_loop", 0}, {"interpreted", 0}};

// push rbp; mov rbp,rsp; again: dec rdi; jnz again; pop rbp; ret
static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xff, 0xcf,
				     0x75, 0xfb, 0x5d, 0xc3};

NOINLINE void interpreted(void) { spin(1); }

NOINLINE void call_jit(void (*jit)(uint64_t)) {
	TIMED(truths[0].cpu_ns, jit(4 * UNIT_ITERATIONS));
}

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	memcpy(memory, code, sizeof code);
	if (mprotect(memory, 4096, PROT_READ | PROT_EXEC) != 0)
		return 1;
	char path[64];
	snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
	FILE *map = fopen(path, "wx");
	if (!map)
		return 1;
	fprintf(map, "%lx %zx jit_hot_loop\n", (unsigned long)memory, sizeof code);
	fclose(map);
	while (wall_ns() < end_ns) {
		call_jit((void (*)(uint64_t))memory);
		TIMED(truths[1].cpu_ns, interpreted());
	}
	unlink(path);
	print_truth(truths, 2);
	return 0;
}
