// Most of the time in the kernel: reading zeros into a big buffer, beside a little user work.
#include "truth.h"
#include <fcntl.h>
#include <sys/syscall.h>

#define BUFFER_BYTES (4ul << 20)

static struct truth truths[] = {{"read_zeros", 0}, {"think", 0}};

// The system call stands here in person: libc's wrapper keeps no frame pointer, and would hide its
// caller from a frame-pointer unwinder.
static inline __attribute__((always_inline)) long read_here(long fd, char *buffer, long bytes) {
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_read), "D"(fd), "S"(buffer), "d"(bytes)
			 : "rcx", "r11", "memory");
	return result;
}

NOINLINE void read_zeros(int fd, char *buffer) {
	// In memory, so that this function has a stack frame and a frame pointer.
	for (volatile int round = 0; round < 4; round++)
		if (read_here(fd, buffer, BUFFER_BYTES) != (long)BUFFER_BYTES)
			exit(1);
}

NOINLINE void think(void) { spin(2); }

NOINLINE void work(int fd, char *buffer) {
	TIMED(truths[0].cpu_ns, read_zeros(fd, buffer));
	TIMED(truths[1].cpu_ns, think());
}

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	int fd = open("/dev/zero", O_RDONLY);
	char *buffer = malloc(BUFFER_BYTES);
	if (fd < 0 || !buffer)
		return 1;
	while (wall_ns() < end_ns)
		work(fd, buffer);
	print_truth(truths, 2);
	return 0;
}
