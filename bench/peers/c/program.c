/*
 * The program that is started for each connection: sends back what it receives, until the end.
 *
 * Without a C library, whose start asks the processor what it can do (CPUID): in a virtual machine that takes several times as
 * long as everything else that a start takes, and hides it.
 */

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, EXIT = 60 };

static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, EXIT = 93 };

static long call(long number, long a, long b, long c)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
#else
#error "the system calls of this processor are not known here"
#endif

void _start(void)
{
	char bytes[4096];
	long count;

	while ((count = call(READ, 0, (long)bytes, sizeof bytes)) > 0)
		if (call(WRITE, 1, (long)bytes, count) != count)
			call(EXIT, 1, 0, 0);
	call(EXIT, count != 0, 0, 0);
}
