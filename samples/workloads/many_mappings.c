// Has 60 000 mappings, every other one executable, and works in its own code, which was mapped
// first.
#include "truth.h"
#include <fcntl.h>
#include <sys/mman.h>

static struct truth truths[] = {{"first_mapped_work", 0}};

NOINLINE void first_mapped_work(void) { spin(2); }

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	int file = open("/proc/self/exe", O_RDONLY);
	for (int i = 0; i < 60000; i++) {
		int protection = i % 2 ? PROT_READ : PROT_READ | PROT_EXEC;
		if (mmap(NULL, 4096, protection, MAP_PRIVATE, file, 0) == MAP_FAILED) {
			perror("mmap");
			return 1;
		}
	}
	while (wall_ns() < end_ns)
		TIMED(truths[0].cpu_ns, first_mapped_work());
	print_truth(truths, 1);
	return 0;
}
