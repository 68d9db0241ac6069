// Made code in anonymous memory that calls back into compiled code: main → made → callback. The
// made code keeps a frame pointer, as JIT compilers do when they are asked to; it is named by
// /tmp/perf-PID.map, which is removed at the end.
#include "truth.h"
#include <string.h>
#include <sys/mman.h>

static struct truth truths[] = {{"callback", 0}};

// push rbp; mov rbp,rsp; call rdi; pop rbp; ret
static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};

NOINLINE void callback(void) { TIMED(truths[0].cpu_ns, spin(2)); }

NOINLINE void call_made(void (*made)(void (*)(void))) {
	made(callback);
	__asm__ volatile(""); // no tail call
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
	fprintf(map, "%lx %zx made_code\n", (unsigned long)memory, sizeof code);
	fclose(map);
	while (wall_ns() < end_ns)
		call_made((void (*)(void (*)(void)))memory);
	unlink(path);
	print_truth(truths, 1);
	return 0;
}
