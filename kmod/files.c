// SPDX-License-Identifier: GPL-2.0

/* Pages that are somebody else's: of files, and the data of the kernel's vDSO. */

#include <linux/dcache.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/nsproxy.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/shmem_fs.h>
#include <linux/time_namespace.h>
#include <asm/io.h>

#include "shim.h"

/* --- Files --- */

/* Where the pages of @file are: of an overlay's file, in the layer below. */
static struct inode *uvisor_data_inode(struct file *file)
{
	return d_real_inode(file->f_path.dentry);
}

/*
 * Can pages of the page cache be taken from @inode, the data of @file? Asked again
 * for each page: an overlay's file moves to another layer when it is first written.
 */
static int uvisor_inode_check(struct file *file, struct inode *inode)
{
	if (!inode || !S_ISREG(inode->i_mode) || IS_DAX(inode))
		return -ENODEV;
	if (shmem_mapping(inode->i_mapping))
		return 0;
	if (!inode->i_mapping->a_ops->read_folio)
		return -ENODEV;
	/* sysfs and its like have a page cache that their content is not in. */
	if (inode->i_mapping->a_ops == &ram_aops && inode->i_sb->s_magic != RAMFS_MAGIC)
		return -ENODEV;
	/*
	 * A layer's page is read without the layer's own open file, which only
	 * file systems on a block device are known not to need.
	 */
	if (inode != file_inode(file) &&
	    (!(inode->i_sb->s_type->fs_flags & FS_REQUIRES_DEV) ||
	     inode->i_sb->s_magic == FUSE_SUPER_MAGIC))
		return -ENODEV;
	return 0;
}

int uvisor_file_check(struct file *file)
{
	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	return uvisor_inode_check(file, uvisor_data_inode(file));
}

bool uvisor_file_noexec(struct file *file)
{
	return (file->f_path.mnt->mnt_flags & MNT_NOEXEC) ||
	       (file->f_path.mnt->mnt_sb->s_iflags & SB_I_NOEXEC);
}

/*
 * A mapping of @file's pages that others see writes to, as mmap() with MAP_SHARED:
 * 1 if it may be written to, now or later. It then counts as such a mapping, which
 * keeps seals against writes away, until uvisor_file_unshare(). 0 if it may only be
 * read, or an error if it is to @write. Only files that live in memory may be
 * written to: others must be told about each page that is.
 */
int uvisor_file_share(struct file *file, bool write)
{
	struct inode *inode = file_inode(file);
	struct address_space *mapping = inode->i_mapping;
	int error = 0;

	if (!(file->f_mode & FMODE_WRITE) || IS_APPEND(inode))
		error = -EACCES;
	else if (!shmem_mapping(mapping))
		error = -ENODEV;
	else
		error = mapping_map_writable(mapping);
	if (!error && READ_ONCE(SHMEM_I(inode)->seals) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) {
		mapping_unmap_writable(mapping);
		error = -EPERM;
	}
	if (error)
		return write ? error : 0;
	return 1;
}

void uvisor_file_unshare(struct file *file)
{
	mapping_unmap_writable(file_inode(file)->i_mapping);
}

/* The folio of @index, which is read; not while the file's blocks are taken away. */
static struct folio *uvisor_read_folio(struct file *file, struct inode *inode, u64 index)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;

	filemap_invalidate_lock_shared(mapping);
	if (index >= DIV_ROUND_UP_ULL((u64)i_size_read(inode), PAGE_SIZE))
		folio = ERR_PTR(-ENXIO);
	else
		folio = read_cache_folio(mapping, index, NULL,
					 inode == file_inode(file) ? file : NULL);
	filemap_invalidate_unlock_shared(mapping);
	return folio;
}

/* The page @index of a file if it is in the page cache and up to date; does not sleep. */
static struct page *uvisor_cached_page(struct inode *inode, u64 index)
{
	struct folio *folio = filemap_get_folio(inode->i_mapping, index);

	if (IS_ERR(folio))
		return NULL;
	if (folio_test_uptodate(folio))
		return folio_file_page(folio, index);
	folio_put(folio);
	return NULL;
}

static struct page *uvisor_read_page(struct file *file, struct inode *inode, u64 index)
{
	struct folio *folio;

	if (shmem_mapping(inode->i_mapping))
		return shmem_read_mapping_page(inode->i_mapping, index);
	folio = uvisor_read_folio(file, inode, index);
	return IS_ERR(folio) ? ERR_CAST(folio) : folio_file_page(folio, index);
}

/*
 * The page-cache page @index of a file that passed uvisor_file_check(), with a
 * reference; -ENXIO beyond the end of the file. May sleep for I/O, unless only a
 * page is wanted that is @at_hand; -EAGAIN if it is not.
 *
 * One that may be written to until it is put is made @dirty. As nothing is written
 * out that has a reference, it stays so: who writes it out has the lock, and looked
 * for references behind it.
 */
int uvisor_file_page(struct file *file, u64 index, bool at_hand, bool dirty, phys_addr_t *phys)
{
	struct inode *inode = uvisor_data_inode(file);
	int error = uvisor_inode_check(file, inode);
	struct page *page;

	if (error)
		return error;
	if (index >= DIV_ROUND_UP_ULL((u64)i_size_read(inode), PAGE_SIZE))
		return -ENXIO;
	page = uvisor_cached_page(inode, index);
	if (!page) {
		if (at_hand)
			return -EAGAIN;
		page = uvisor_read_page(file, inode, index);
		if (IS_ERR(page))
			return PTR_ERR(page);
	}
	if (PageHWPoison(page)) {
		put_page(page);
		return -EIO;
	}
	if (uvisor_is_crowded(page)) {
		put_page(page);
		return -ENOMEM;
	}
	if (dirty && at_hand &&
	    (folio_test_locked(page_folio(page)) || !folio_test_dirty(page_folio(page)))) {
		put_page(page);
		return -EAGAIN;
	}
	if (dirty && !at_hand)
		set_page_dirty_lock(page);
	*phys = page_to_phys(page);
	return 0;
}

/* --- vDSO data --- */

/*
 * Is this the mapping of the kernel's vDSO data? The name of a mapping is the
 * kernel's to give: a task names anonymous memory and files, but these have no
 * operation that tells it.
 */
static bool uvisor_is_vvar(struct vm_area_struct *vma)
{
	const char *name;

	if (vma->vm_file || !vma->vm_ops || !vma->vm_ops->name ||
	    vma->vm_flags & (VM_IO | VM_PFNMAP | VM_SHARED | VM_WRITE | VM_MAYWRITE))
		return false;
	name = vma->vm_ops->name(vma);
	return name && !strcmp(name, "[vvar]");
}

/*
 * Is this a page that the kernel allocated for itself? The pages of the vDSO's
 * data are: neither anonymous nor a file's, and on no list of those to be reclaimed.
 */
static bool uvisor_is_kernel_page(struct page *page)
{
	struct folio *folio = page_folio(page);

	return !folio_test_anon(folio) && !folio->mapping && !folio_test_lru(folio) &&
	       !folio_test_large(folio) && !folio_test_slab(folio);
}

/*
 * The first @len bytes of the calling process's vDSO data, which are mapped at
 * @start: pages with a reference each, or 0 where no page is. They are the kernel's
 * for good, and the same for all processes but those in a time namespace: whoever
 * enters one shares no memory with others, so that it cannot change meanwhile.
 */
int uvisor_vvar_pages(unsigned long start, unsigned long len, phys_addr_t *phys)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	unsigned long i;
	int error = 0;

#ifdef CONFIG_TIME_NS
	if (current->nsproxy->time_ns != &init_time_ns)
		return -EOPNOTSUPP;
#endif
	if (!len || len > UVISOR_VVAR_PAGES * PAGE_SIZE || !mm)
		return -EINVAL;
	memset(phys, 0, UVISOR_VVAR_PAGES * sizeof(*phys));
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = find_vma(mm, start);
	if (!vma || vma->vm_start != start || len > vma->vm_end - start || !uvisor_is_vvar(vma))
		error = -EINVAL;
	for (i = 0; !error && i < len / PAGE_SIZE; i++) {
		struct page *page;
		long got = get_user_pages(start + i * PAGE_SIZE, 1, 0, &page);

		/* Not every kernel has one for the offsets of a time namespace. */
		if (got == -EFAULT)
			continue;
		if (got != 1) {
			error = got < 0 ? got : -EINTR;
		} else if (!uvisor_is_kernel_page(page)) {
			put_page(page);
			error = -EINVAL;
		} else {
			phys[i] = page_to_phys(page);
		}
	}
	mmap_read_unlock(mm);
	for (i = 0; error && i < UVISOR_VVAR_PAGES; i++) {
		if (phys[i])
			uvisor_page_put(phys[i]);
	}
	return error;
}
