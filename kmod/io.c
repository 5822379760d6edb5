// SPDX-License-Identifier: GPL-2.0

/* Reading and writing files for a guest, by the task that runs it. */

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/sched/xacct.h>
#include <linux/uio.h>

#include "shim.h"

static ssize_t uvisor_transfer(struct file *file, bool write, struct iov_iter *iter, loff_t *pos)
{
	ssize_t done;

	if (write) {
		done = vfs_iter_write(file, iter, pos, 0);
		if (done > 0)
			add_wchar(current, done);
		inc_syscw(current);
	} else {
		done = vfs_iter_read(file, iter, pos, 0);
		if (done > 0)
			add_rchar(current, done);
		inc_syscr(current);
	}
	return done;
}

/*
 * read(), write(), or with @at also pread64() and pwrite64(), of the caller's file @fd and its
 * memory at @buffer. -ENOSYS if this is not the place for it: what then has been done is nothing.
 */
ssize_t uvisor_file_io(unsigned int fd, bool write, void __user *buffer, size_t len,
		       const loff_t *at)
{
	fmode_t needed = write ? FMODE_WRITE | FMODE_CAN_WRITE : FMODE_READ | FMODE_CAN_READ;
	struct file *file = fget(fd);
	struct iov_iter iter;
	ssize_t done = -ENOSYS;
	loff_t pos;

	if (!file)
		return -ENOSYS;
	if (at)
		needed |= write ? FMODE_PWRITE : FMODE_PREAD;
	if ((file->f_mode & needed) != needed)
		goto out;
	if (write ? !file->f_op->write_iter : !file->f_op->read_iter)
		goto out;
	if (import_ubuf(write ? ITER_SOURCE : ITER_DEST, buffer, len, &iter))
		goto out;

	if (at) {
		pos = *at;
		done = uvisor_transfer(file, write, &iter, &pos);
	} else if (file->f_mode & FMODE_STREAM) {
		/* It has no position. */
		done = uvisor_transfer(file, write, &iter, NULL);
	} else {
		/* Others have the file too, as we do: see file_needs_f_pos_lock(). */
		bool lock = file->f_mode & FMODE_ATOMIC_POS;

		if (lock)
			mutex_lock(&file->f_pos_lock);
		pos = file->f_pos;
		done = uvisor_transfer(file, write, &iter, &pos);
		if (done >= 0)
			file->f_pos = pos;
		if (lock)
			mutex_unlock(&file->f_pos_lock);
	}
out:
	fput(file);
	return done;
}
