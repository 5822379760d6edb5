// SPDX-License-Identifier: GPL-2.0

/* Memory of the calling process's, which it shares with a guest as long as its own page tables have it. */

#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <asm/io.h>

#include "shim.h"

#ifdef CONFIG_MMU_NOTIFIER

struct uvisor_user {
	struct mmu_interval_notifier notifier;
	void *owner;
	uvisor_user_fn *take;
};

/* The kernel is about to change what is at these addresses, and waits for us. */
static bool uvisor_user_invalidate(struct mmu_interval_notifier *notifier,
				   const struct mmu_notifier_range *range, unsigned long seq)
{
	struct uvisor_user *user = container_of(notifier, struct uvisor_user, notifier);

	/* Waits for other CPUs at most, and so can be done whether or not it may sleep. */
	user->take(user->owner, user, seq, range->start, range->end);
	return true;
}

static const struct mmu_interval_notifier_ops uvisor_user_ops = {
	.invalidate = uvisor_user_invalidate,
};

/* From now on @take is called with @owner when the memory of the calling process changes. */
struct uvisor_user *uvisor_user_bind(void *owner, uvisor_user_fn *take)
{
	struct uvisor_user *user;
	int error;

	if (!current->mm)
		return ERR_PTR(-EINVAL);
	user = kzalloc_obj(*user, GFP_KERNEL_ACCOUNT);
	if (!user)
		return ERR_PTR(-ENOMEM);
	user->owner = owner;
	user->take = take;
	error = mmu_interval_notifier_insert(&user->notifier, current->mm, 0, TASK_SIZE_MAX,
					     &uvisor_user_ops);
	if (error) {
		kfree(user);
		return ERR_PTR(error);
	}
	return user;
}

/* Waits until nobody is in @take, which is not called again. */
void uvisor_user_unbind(struct uvisor_user *user)
{
	mmu_interval_notifier_remove(&user->notifier);
	kfree(user);
}

/* Is it the memory of the calling process? */
bool uvisor_user_is_current(const struct uvisor_user *user)
{
	return user->notifier.mm == current->mm;
}

/* The state of the memory, for uvisor_user_is_stale(); waits while it is changing. */
unsigned long uvisor_user_begin(struct uvisor_user *user)
{
	return mmu_interval_read_begin(&user->notifier);
}

/* Has the memory changed since @seq? The caller holds the lock that it takes in @take. */
bool uvisor_user_is_stale(struct uvisor_user *user, unsigned long seq)
{
	return mmu_interval_read_retry(&user->notifier, seq);
}

/* In @take, with the lock held: @seq is what it was called with. */
void uvisor_user_set_seq(struct uvisor_user *user, unsigned long seq)
{
	mmu_interval_set_seq(&user->notifier, seq);
}

#else

struct uvisor_user *uvisor_user_bind(void *owner, uvisor_user_fn *take)
{
	return ERR_PTR(-EOPNOTSUPP);
}

void uvisor_user_unbind(struct uvisor_user *user)
{
}

bool uvisor_user_is_current(const struct uvisor_user *user)
{
	return false;
}

unsigned long uvisor_user_begin(struct uvisor_user *user)
{
	return 0;
}

bool uvisor_user_is_stale(struct uvisor_user *user, unsigned long seq)
{
	return true;
}

void uvisor_user_set_seq(struct uvisor_user *user, unsigned long seq)
{
}

#endif

/*
 * The page that the calling process has at @address, with a reference, which is
 * made there as by an access of its own: to @write, the file system is asked, and
 * the page is dirty, also where the process could have written to it without telling
 * anybody (which the fast way of getting pages would leave so). -EFAULT if there is
 * none, -EINTR if a signal came first.
 */
int uvisor_user_page(unsigned long address, bool write, phys_addr_t *phys)
{
	struct page *page;
	unsigned int flags = FOLL_INTERRUPTIBLE | (write ? FOLL_WRITE : 0);
	long got = get_user_pages_unlocked(address, 1, &page, flags);

	if (got != 1)
		return got < 0 ? got : -EFAULT;
	*phys = page_to_phys(page);
	return 0;
}
