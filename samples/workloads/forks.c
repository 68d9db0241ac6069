// Forks its workers in mid-run, half a second after the start, and a grandchild from one of them:
// whoever follows the parent must find them. Workers are named; each burns in its own function.
#include "truth.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { PARENT, CHILD, GRANDCHILD, ROLES };

static const char *const names[ROLES] = {"fork-parent", "fork-child", "fork-grandchild"};
static uint64_t *cpu_ns; // shared with the children
static uint64_t end_ns;

NOINLINE void parent_work(void) { spin(1); }
NOINLINE void child_work(void) { spin(2); }
NOINLINE void grandchild_work(void) { spin(3); }

static void (*const rounds[ROLES])(void) = {parent_work, child_work, grandchild_work};

static void run_until(int role, uint64_t until_ns) {
	prctl(PR_SET_NAME, names[role]);
	while (wall_ns() < until_ns)
		TIMED(cpu_ns[role], rounds[role]());
}

int main(int argc, char **argv) {
	end_ns = deadline_ns(argc, argv);
	cpu_ns = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (cpu_ns == MAP_FAILED)
		return 1;
	run_until(PARENT, wall_ns() + 500000000ull);
	if (fork() == 0) {
		if (fork() == 0) {
			run_until(GRANDCHILD, end_ns);
			_exit(0);
		}
		run_until(CHILD, end_ns);
		wait(NULL);
		_exit(0);
	}
	run_until(PARENT, end_ns);
	wait(NULL);
	struct truth truths[ROLES];
	for (int role = 0; role < ROLES; role++)
		truths[role] = (struct truth){names[role], cpu_ns[role]};
	print_truth(truths, ROLES);
	return 0;
}
