// 4096 functions with frames of different sizes call each other 60 deep, each time along another
// path. The caller and its depth tell who is called: f_ijkl at depth d calls number (n * 5 + d) of
// them, n being the octal number ijkl.
#include "truth.h"

#define COUNT 4096
#define DEPTH 60

typedef long function(unsigned depth);
static function *const functions[COUNT];

NOINLINE long leaf(void) {
	volatile long sum = 0;
	for (long i = 0; i < 20000; i++)
		sum += i;
	return sum;
}

#define F(a, b, c, d)                                                                     \
	NOINLINE long f_##a##b##c##d(unsigned depth) {                                    \
		enum { NUMBER = a * 512 + b * 64 + c * 8 + d };                           \
		volatile char frame[8 + NUMBER * 24 % 200];                               \
		frame[depth % sizeof(frame)] = 1;                                         \
		long sum = depth ? functions[(NUMBER * 5 + depth) % COUNT](depth - 1)     \
				 : leaf();                                                \
		return sum + frame[0];                                                    \
	}
#define NAME(a, b, c, d) f_##a##b##c##d,

#define EACH_D(X, a, b, c)                                                                \
	X(a, b, c, 0) X(a, b, c, 1) X(a, b, c, 2) X(a, b, c, 3)                           \
	X(a, b, c, 4) X(a, b, c, 5) X(a, b, c, 6) X(a, b, c, 7)
#define EACH_C(X, a, b)                                                                   \
	EACH_D(X, a, b, 0) EACH_D(X, a, b, 1) EACH_D(X, a, b, 2) EACH_D(X, a, b, 3)       \
	EACH_D(X, a, b, 4) EACH_D(X, a, b, 5) EACH_D(X, a, b, 6) EACH_D(X, a, b, 7)
#define EACH_B(X, a)                                                                      \
	EACH_C(X, a, 0) EACH_C(X, a, 1) EACH_C(X, a, 2) EACH_C(X, a, 3)                   \
	EACH_C(X, a, 4) EACH_C(X, a, 5) EACH_C(X, a, 6) EACH_C(X, a, 7)
#define EACH(X)                                                                           \
	EACH_B(X, 0) EACH_B(X, 1) EACH_B(X, 2) EACH_B(X, 3)                               \
	EACH_B(X, 4) EACH_B(X, 5) EACH_B(X, 6) EACH_B(X, 7)

EACH(F)
static function *const functions[COUNT] = {EACH(NAME)};

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	for (unsigned start = 0; wall_ns() < end_ns; start += 1237)
		functions[start % COUNT](DEPTH);
	return 0;
}
