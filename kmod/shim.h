/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel offers only as inline functions and macros, as functions that
 * kmod/sys/ declares. Each does one thing and knows nothing about micro-VMs.
 */
#ifndef UVISOR_SHIM_H
#define UVISOR_SHIM_H

#include <linux/mm.h>
#include <linux/types.h>

struct address_space;
struct file;
struct pid;
struct shrink_control;
struct shrinker;
struct vm_area_struct;

/* The kernel's speculation bugs and features that decide our mitigations. */
struct uvisor_cpu_bugs {
	bool l1tf;
	bool flush_l1d;
	bool verw;
	bool rsb;
	bool bhb;
	bool ibpb;
	bool ibrs;
};

/* What uvisor_window_begin() found; two registers. */
struct uvisor_window {
	u64 state;
	u64 task;
};

#define UVISOR_WINDOW_WORK_PENDING	(1UL << 30)
#define UVISOR_WINDOW_FOREIGN_MSRS	(1UL << 31)
/* From here on: how often another task got the CPU of this one. */
#define UVISOR_WINDOW_SWITCHES		32

struct uvisor_window uvisor_window_begin(void);
void uvisor_window_end(void);
void uvisor_cond_resched(void);
int uvisor_handle_work(void);
void uvisor_kick_cpu(int cpu);
int uvisor_sync_cpu(int cpu);

struct pid *uvisor_pid_get(void);
u32 uvisor_pid_number(struct pid *pid);
bool uvisor_is_admin(void);
bool uvisor_is_dying(void);

int uvisor_rdmsr_safe(u32 msr, u64 *value);
void uvisor_cpu_bugs(struct uvisor_cpu_bugs *bugs);
bool uvisor_has_vmx(void);
bool uvisor_has_fred(void);
bool uvisor_has_xsave(void);
bool uvisor_is_confidential_guest(void);
void uvisor_machine_check(void);
u64 uvisor_tss_address(void);
u32 uvisor_tsc_khz(void);

/*
 * The count of a folio has 31 bits, and clones multiply what it costs to take a
 * reference: long before it overflows, there is none to be had.
 */
static inline bool uvisor_is_crowded(struct page *page)
{
	return folio_ref_count(page_folio(page)) > INT_MAX / 2;
}

phys_addr_t uvisor_page_alloc(bool zero);
phys_addr_t uvisor_pages_alloc(bool zero, unsigned int order, bool *zeroed);
bool uvisor_page_get(phys_addr_t phys);
void uvisor_page_put(phys_addr_t phys);
void *uvisor_page_words(phys_addr_t phys);
void *uvisor_page_virt(phys_addr_t phys);
void uvisor_copy(void *to, const void *from, size_t len);

typedef unsigned long (*uvisor_shrinker_fn)(struct shrinker *, struct shrink_control *);
struct shrinker *uvisor_shrinker_new(uvisor_shrinker_fn count, uvisor_shrinker_fn scan);
bool uvisor_shrinker_may_wait(const struct shrink_control *control);

int uvisor_file_check(struct file *file);
bool uvisor_file_noexec(struct file *file);
int uvisor_file_share(struct file *file, bool write);
void uvisor_file_unshare(struct file *file);
int uvisor_file_page(struct file *file, u64 index, bool at_hand, bool dirty, phys_addr_t *phys);

ssize_t uvisor_file_io(unsigned int fd, bool write, void __user *buffer, size_t len,
		       const loff_t *at);

struct uvisor_user;
typedef void uvisor_user_fn(void *owner, struct uvisor_user *user, unsigned long seq,
			    unsigned long start, unsigned long end);

struct uvisor_user *uvisor_user_bind(void *owner, uvisor_user_fn *take);
void uvisor_user_unbind(struct uvisor_user *user);
bool uvisor_user_is_current(const struct uvisor_user *user);
unsigned long uvisor_user_begin(struct uvisor_user *user);
bool uvisor_user_is_stale(struct uvisor_user *user, unsigned long seq);
void uvisor_user_set_seq(struct uvisor_user *user, unsigned long seq);
int uvisor_user_page(unsigned long address, bool write, phys_addr_t *phys);

/* The kernel has one for each clock source's kind of data, and a few more. */
#define UVISOR_VVAR_PAGES	8

int uvisor_vvar_pages(unsigned long start, unsigned long len, phys_addr_t *phys);

struct file *uvisor_anon_file(const char *name, const void *fops, void *data);
int uvisor_vma_init_pfn(struct vm_area_struct *vma);
int uvisor_vma_insert_run_page(struct vm_area_struct *vma, phys_addr_t phys);
unsigned int uvisor_vma_insert_pfn(struct vm_area_struct *vma, unsigned long address,
				   phys_addr_t phys, bool writable);
struct address_space *uvisor_file_mapping(struct file *file);

#endif
