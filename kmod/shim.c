// SPDX-License-Identifier: GPL-2.0
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/cc_platform.h>
#ifdef CONFIG_VIRT_XFER_TO_GUEST_WORK
#include <linux/entry-virt.h>
#endif
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/shrinker.h>
#include <linux/sizes.h>
#include <linux/smp.h>
#include <linux/swap.h>
#include <linux/user_namespace.h>
#include <asm/cpufeature.h>
#include <asm/desc.h>
#include <asm/io.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "shim.h"

/* --- Interrupts, scheduling, other CPUs --- */


void uvisor_cond_resched(void)
{
	cond_resched();
}

/*
 * Flags of a task that must do something before it may run a guest: handle a
 * signal, let another task run, do work that was left to its return to user
 * space. The kernel has this for KVM's loop; without KVM in the kernel, the part
 * that a bounded delay does not excuse.
 */
#ifdef CONFIG_VIRT_XFER_TO_GUEST_WORK
#define UVISOR_WORK	XFER_TO_GUEST_MODE_WORK
#else
#define UVISOR_WORK	(_TIF_NEED_RESCHED | _TIF_SIGPENDING | _TIF_NOTIFY_SIGNAL)
#endif

/* KVM asked to be called when this CPU returns to user space. */
#ifdef CONFIG_USER_RETURN_NOTIFIER
#define UVISOR_FOREIGN	_TIF_USER_RETURN_NOTIFY
#else
#define UVISOR_FOREIGN	0
#endif

/*
 * Turns interrupts off, and says what a window has to know. In one call, as is its
 * counterpart: each is on the way of every exit.
 */
struct uvisor_window uvisor_window_begin(void)
{
	struct uvisor_window window;
	unsigned long flags;

	local_irq_disable();
	flags = read_thread_flags();
	window.state = smp_processor_id();
	if (flags & UVISOR_WORK)
		window.state |= UVISOR_WINDOW_WORK_PENDING;
	if (flags & UVISOR_FOREIGN)
		window.state |= UVISOR_WINDOW_FOREIGN_MSRS;
	window.state |= (current->nvcsw + current->nivcsw) << UVISOR_WINDOW_SWITCHES;
	window.task = (u64)current;
	return window;
}

/* Apart, for it needs a stack frame, and hardly any task comes here. */
static noinline void uvisor_reload_tss(void)
{
	invalidate_tss_limit();
}

/*
 * Turns interrupts on again, behind a stay in a guest. A VM exit sets the limit of
 * the TSS to a fixed value: the kernel must reload it before a task with I/O
 * permissions runs (as invalidate_tss_limit(), which checks more).
 */
void uvisor_window_end(void)
{
	if (unlikely(test_thread_flag(TIF_IO_BITMAP)))
		uvisor_reload_tss();
	else
		this_cpu_write(__tss_limit_invalid, true);
	/* VMSCAPE: the kernel then flushes predictions before user space runs. */
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
	local_irq_enable();
}

/* Does what is pending, with interrupts on; -EINTR if a signal waits. */
int uvisor_handle_work(void)
{
#ifdef CONFIG_VIRT_XFER_TO_GUEST_WORK
	return xfer_to_guest_mode_handle_work();
#else
	cond_resched();
	return signal_pending(current) ? -EINTR : 0;
#endif
}

static void uvisor_nothing(void *unused)
{
}

/* Makes another CPU take an interrupt soon, which ends its stay in a guest. */
void uvisor_kick_cpu(int cpu)
{
	int me = get_cpu();

	if (cpu != me)
		smp_call_function_single(cpu, uvisor_nothing, NULL, 0);
	put_cpu();
}

/* Returns when @cpu has taken an interrupt, so has left any guest it was in. */
int uvisor_sync_cpu(int cpu)
{
	return smp_call_function_single(cpu, uvisor_nothing, NULL, 1);
}

/* --- Tasks --- */

/* The calling process, with a reference. */
struct pid *uvisor_pid_get(void)
{
	return get_task_pid(current, PIDTYPE_TGID);
}

/*
 * The number of a process as the calling task has it; 0 if it has none for it. One
 * that has ended has none: the number may be another's by now.
 */
u32 uvisor_pid_number(struct pid *pid)
{
	return pid_has_task(pid, PIDTYPE_TGID) ? pid_vnr(pid) : 0;
}

/* Not a use of the privilege, and no violation if there is none: it is only asked. */
bool uvisor_is_admin(void)
{
	return ns_capable_noaudit(&init_user_ns, CAP_SYS_ADMIN);
}

bool uvisor_is_dying(void)
{
	return fatal_signal_pending(current);
}

/* --- CPU --- */

int uvisor_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

void uvisor_cpu_bugs(struct uvisor_cpu_bugs *bugs)
{
	bugs->l1tf = boot_cpu_has_bug(X86_BUG_L1TF);
	bugs->flush_l1d = boot_cpu_has(X86_FEATURE_FLUSH_L1D);
	bugs->verw = boot_cpu_has(X86_FEATURE_CLEAR_CPU_BUF) ||
		     boot_cpu_has(X86_FEATURE_CLEAR_CPU_BUF_VM);
	bugs->rsb = boot_cpu_has(X86_FEATURE_RSB_VMEXIT) ||
		    boot_cpu_has(X86_FEATURE_RSB_VMEXIT_LITE);
	bugs->bhb = boot_cpu_has(X86_FEATURE_CLEAR_BHB_VMEXIT);
	bugs->ibpb = boot_cpu_has(X86_FEATURE_IBPB);
	bugs->ibrs = boot_cpu_has(X86_FEATURE_KERNEL_IBRS);
}

bool uvisor_has_vmx(void)
{
	return boot_cpu_has(X86_FEATURE_VMX);
}

bool uvisor_has_fred(void)
{
	return cpu_feature_enabled(X86_FEATURE_FRED);
}

bool uvisor_has_xsave(void)
{
	return cpu_feature_enabled(X86_FEATURE_XSAVE);
}

bool uvisor_is_confidential_guest(void)
{
	return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
}

/*
 * A machine check that ended or prevented a stay in a guest: as one in user space,
 * so that the kernel may kill the task where it would panic over itself.
 */
void uvisor_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = { .cs = 3, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
#endif
}

u64 uvisor_tss_address(void)
{
	return (u64)&get_cpu_entry_area(smp_processor_id())->tss.x86_tss;
}

u32 uvisor_tsc_khz(void)
{
	return tsc_khz;
}

/* --- Pages --- */

/* What others need to go on. */
static unsigned long uvisor_spare(void)
{
	return clamp(totalram_pages() / 32, SZ_8M / PAGE_SIZE, SZ_256M / PAGE_SIZE);
}

/*
 * Is there hardly more memory than what others need to go on? A micro-VM's is none
 * that the OOM killer finds: with the last of it taken, it would end somebody else.
 */
static bool uvisor_is_memory_short(void)
{
	unsigned long spare = uvisor_spare();

	/* The first look is the cheap one. */
	return global_zone_page_state(NR_FREE_PAGES) <= 2 * spare &&
	       si_mem_available() + get_nr_swap_pages() < (long)spare;
}

/*
 * A frame or table of a micro-VM. A failure is the micro-VM's to bear, so it
 * neither warns nor sends the OOM killer after anybody.
 */
phys_addr_t uvisor_page_alloc(bool zero)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	struct page *page;

	if (uvisor_is_memory_short())
		return 0;
	page = alloc_page(zero ? gfp | __GFP_ZERO : gfp);
	return page ? page_to_phys(page) : 0;
}

/*
 * Several of them in a row, if there are some at hand: nobody is made to wait or to
 * give memory back for those that may not be needed. A kernel that initialises all
 * it allocates says so in @zeroed.
 */
phys_addr_t uvisor_pages_alloc(bool zero, unsigned int order, bool *zeroed)
{
	gfp_t gfp = (GFP_KERNEL_ACCOUNT & ~__GFP_RECLAIM) | __GFP_NOWARN;
	struct page *page;

	if (uvisor_is_memory_short())
		return 0;
	if (zero)
		gfp |= __GFP_ZERO;
	page = alloc_pages(gfp, order);
	if (!page)
		return 0;
	split_page(page, order);
	*zeroed = want_init_on_alloc(gfp);
	return page_to_phys(page);
}

#ifndef CONFIG_SPARSEMEM_VMEMMAP
#error "the module needs struct page in one array (CONFIG_SPARSEMEM_VMEMMAP)"
#endif

/*
 * Two words of a page's struct page that belong to whoever allocated it: index
 * and private. Not the first ones, which say more than one thing: with bit 0 of
 * lru set, whoever walks through memory takes the page for a tail of another.
 */
void *uvisor_page_words(phys_addr_t phys)
{
	static_assert(offsetof(struct page, private) ==
		      offsetof(struct page, __folio_index) + sizeof(u64));
	return &pfn_to_page(PHYS_PFN(phys))->__folio_index;
}

bool uvisor_page_get(phys_addr_t phys)
{
	struct page *page = pfn_to_page(PHYS_PFN(phys));

	if (uvisor_is_crowded(page))
		return false;
	get_page(page);
	return true;
}

void uvisor_page_put(phys_addr_t phys)
{
	put_page(pfn_to_page(PHYS_PFN(phys)));
}

void *uvisor_page_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

/* For memory that others may change meanwhile. */
void uvisor_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

struct shrinker *uvisor_shrinker_new(uvisor_shrinker_fn count, uvisor_shrinker_fn scan)
{
	struct shrinker *shrinker = shrinker_alloc(0, "uvisor");

	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	/*
	 * What is given back is a reference, not yet the page, which costs no I/O to
	 * take again. The kernel's own search for pages finds none that has it, so it
	 * must get many at once, and early.
	 */
	shrinker->seeks = 0;
	shrinker_register(shrinker);
	return shrinker;
}

/* Not where who looks for memory may hold locks of a file system. */
bool uvisor_shrinker_may_wait(const struct shrink_control *control)
{
	return control->gfp_mask & __GFP_FS;
}

/* --- Our files --- */

/* A file with an inode of its own, so that its mappings can be zapped. */
struct file *uvisor_anon_file(const char *name, const void *fops, void *data)
{
	struct file *file = anon_inode_create_getfile(name, fops, data,
						      O_RDWR | O_CLOEXEC, NULL);

	if (!IS_ERR(file))
		file->f_mode |= FMODE_PREAD | FMODE_PWRITE;
	return file;
}

struct address_space *uvisor_file_mapping(struct file *file)
{
	return file->f_mapping;
}

/* --- User mappings --- */

/* A mapping whose pages the caller inserts one by one and zaps by itself. */
int uvisor_vma_init_pfn(struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	/* A forked child is another task: it must not reach this one's memory. */
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	return 0;
}

/* Maps the page at @phys as all of @vma. */
int uvisor_vma_insert_run_page(struct vm_area_struct *vma, phys_addr_t phys)
{
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC) || vma->vm_pgoff ||
	    vma->vm_end - vma->vm_start != PAGE_SIZE)
		return -EINVAL;
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	return vm_insert_page(vma, vma->vm_start, pfn_to_page(PHYS_PFN(phys)));
}

/* Without @writable, a write faults again, to pfn_mkwrite. */
unsigned int uvisor_vma_insert_pfn(struct vm_area_struct *vma, unsigned long address,
				   phys_addr_t phys, bool writable)
{
	pgprot_t prot = writable ? vm_get_page_prot(vma->vm_flags) : vma->vm_page_prot;

	return (__force unsigned int)vmf_insert_pfn_prot(vma, address, PHYS_PFN(phys), prot);
}
