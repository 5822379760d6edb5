// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of the test machine: runs the command, and carries its output, its
 * status and the kernel's log to the outside, in frames of a type byte, a length
 * (16 bits, little endian) and the data:
 *
 *   O, E   standard output and standard error
 *   K      the kernel's log, once the command has ended
 *   X      the wait status as four bytes; always the last frame
 *
 * What the command writes is always inside a frame, so that it cannot pass for a
 * status. The frames go to port 0xE9, or to a virtio port where there is one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define START "\nuvisor-frames\n"
#define VPORT "/dev/vport0p1"
#define ARGV "/usr/lib/uvisor/vm/argv"
#define TTY_FLAG "/usr/lib/uvisor/vm/tty"

static int vport = -1;

static void emit(const void *data, size_t len)
{
	const char *p = data;

	if (vport < 0) {
		asm volatile("rep outsb" : "+S"(p), "+c"(len) : "d"(0xe9) : "memory");
		return;
	}
	while (len) {
		ssize_t n = write(vport, p, len);

		if (n > 0) {
			p += n;
			len -= n;
		} else if (errno != EINTR && errno != EAGAIN) {
			return;
		}
	}
}

static void frame(char type, const void *data, size_t len)
{
	static char buf[3 + 32768];

	/* One write a frame: each costs an exit on a virtual machine. */
	while (len) {
		uint16_t n = len > 16384 ? 16384 : len;

		buf[0] = type;
		memcpy(buf + 1, &n, 2);
		memcpy(buf + 3, data, n);
		emit(buf, 3 + n);
		data = (const char *)data + n;
		len -= n;
	}
}

static char **read_argv(void)
{
	static char text[1 << 18];
	static char *argv[4096];
	int fd = open(ARGV, O_RDONLY | O_CLOEXEC), n = 0;
	ssize_t len = 0, got;

	while (fd >= 0 && (got = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += got;
	for (char *p = text; p < text + len && n < 4095; p += strlen(p) + 1)
		argv[n++] = p;
	return argv;
}

static void child(int out, int err)
{
	char **argv = read_argv();
	int in = open("/dev/null", O_RDONLY);

	setsid();
	if (access(TTY_FLAG, F_OK) == 0) {
		in = out = err = open("/dev/ttyS1", O_RDWR);
		ioctl(in, TIOCSCTTY, 0);
	}
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	close_range(3, ~0U, 0);
	if (chdir("/root"))
		perror("/root");
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("LANG", "C.UTF-8", 1);
	setenv("TERM", "linux", 1);
	execvp(argv[0], argv);
	perror(argv[0] ? argv[0] : "no command");
	_exit(127);
}

/* Returns false at the end of the stream. */
static int pump(int fd, char type)
{
	static char buf[16384];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n > 0)
		frame(type, buf, n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void send_kernel_log(void)
{
	int size = klogctl(10, NULL, 0);
	char *log = malloc(size + 1);
	int len = log ? klogctl(3, log, size) : 0;

	if (len > 0)
		frame('K', log, len);
}

static void on_child(int sig)
{
	(void)sig;
}

int main(void)
{
	int out[2], err[2], status = 0, done = 0, i;
	struct sigaction act = { .sa_handler = on_child };
	sigset_t blocked, open_mask;
	pid_t pid;

	/* The port appears once the virtio console has talked to the host. */
	for (i = 0; i < 200 && access("/sys/class/virtio-ports", F_OK) == 0; i++) {
		vport = open(VPORT, O_WRONLY | O_CLOEXEC);
		if (vport >= 0 || access("/usr/lib/uvisor/vm/vport", F_OK))
			break;
		usleep(10000);
	}
	sigaction(SIGCHLD, &act, NULL);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		return 1;
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	pid = fork();
	if (pid == 0)
		child(out[1], err[1]);
	sigprocmask(SIG_BLOCK, &blocked, &open_mask);
	close(out[1]);
	close(err[1]);
	/* After the fork: the command runs without access to ports. */
	if (vport < 0)
		ioperm(0xe9, 1, 1);
	emit(START, strlen(START));

	struct pollfd fds[2] = { { out[0], POLLIN, 0 }, { err[0], POLLIN, 0 } };

	while (!done) {
		int s;
		pid_t p;

		ppoll(fds, 2, NULL, &open_mask);
		/* Orphans of the command are ours to reap. */
		while ((p = waitpid(-1, &s, WNOHANG)) > 0) {
			if (p == pid) {
				status = s;
				done = 1;
			}
		}
		if (fds[0].fd >= 0 && !pump(out[0], 'O'))
			fds[0].fd = -1;
		if (fds[1].fd >= 0 && !pump(err[0], 'E'))
			fds[1].fd = -1;
	}
	/* What is left in the pipes; a daemon may hold them open for ever. */
	for (i = 0; i < 2; i++) {
		int left = 0;
		int fd = i ? err[0] : out[0];

		while (ioctl(fd, FIONREAD, &left) == 0 && left > 0)
			pump(fd, i ? 'E' : 'O');
	}
	send_kernel_log();
	frame('X', &status, sizeof(status));
	/* Whoever reads the last frame ends the machine. */
	sleep(20);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
