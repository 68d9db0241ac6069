// Starts one short-lived child after the other: argv[2] is the program, which lives 20 to 50 ms
// and writes the CPU time (u64, ns) of its work to descriptor 3. Prints what they took together,
// how much of the children's whole CPU time that is, and how many there were.
#include "truth.h"
#include <fcntl.h>
#include <sys/wait.h>

static void run_child(const char *program, int milliseconds, int report[2]) {
	char argument[16];
	snprintf(argument, sizeof argument, "%d", milliseconds);
	pid_t child = vfork();
	if (child == 0) {
		if (dup2(report[1], 3) < 0)
			_exit(126);
		execl(program, program, argument, (char *)NULL);
		_exit(127);
	}
	int status;
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		exit(1);
}

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	int report[2];
	if (argc < 3 || pipe2(report, O_CLOEXEC) != 0)
		return 2;
	struct truth truths[] = {{"tiny_work", 0}, {"children", 0}};
	unsigned count = 0;
	for (; wall_ns() < end_ns; count++) {
		uint64_t cpu_ns;
		run_child(argv[2], 20 + (int)(count % 4) * 10, report);
		if (read(report[0], &cpu_ns, sizeof cpu_ns) != sizeof cpu_ns)
			return 1;
		truths[0].cpu_ns += cpu_ns;
	}
	struct rusage usage;
	getrusage(RUSAGE_CHILDREN, &usage);
	truths[1].cpu_ns = timeval_ns(usage.ru_utime) + timeval_ns(usage.ru_stime);
	fprintf(stderr, "%u children\n", count);
	print_truth(truths, 2);
	return 0;
}
