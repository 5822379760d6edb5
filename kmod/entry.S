/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch. General registers are exchanged here; everything else is in
 * the VMCS or switched once per window by Rust.
 */
#include <linux/linkage.h>
#include <asm/alternative.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>

/* The order of `Regs` in uapi/src/run.rs. */
#define REG_RAX	0x00
#define REG_RBX	0x08
#define REG_RCX	0x10
#define REG_RDX	0x18
#define REG_RSI	0x20
#define REG_RDI	0x28
#define REG_RBP	0x30
#define REG_R8	0x40
#define REG_R9	0x48
#define REG_R10	0x50
#define REG_R11	0x58
#define REG_R12	0x60
#define REG_R13	0x68
#define REG_R14	0x70
#define REG_R15	0x78

#define VMCS_HOST_RSP	0x6c14

.section .rodata
/* VERW clears buffers only with a selector that is valid and writable. */
SYM_DATA_LOCAL(uvisor_verw_selector, .word __KERNEL_DS)

.section .text, "ax"

/*
 * int uvisor_enter(struct Regs *regs, u64 resume)
 *
 * Enters the guest of the current VMCS with VMLAUNCH (resume = 0) or VMRESUME
 * (resume = 1) and returns 0 after its exit, or 1 if the CPU refused with VMfail.
 * Interrupts are off; the VMCS's host RIP is uvisor_exit.
 */
SYM_FUNC_START(uvisor_enter)
	push	%rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdi

	mov	$VMCS_HOST_RSP, %eax
	vmwrite	%rsp, %rax

	/* The carry flag keeps `resume`: neither MOV nor VERW changes it. */
	bt	$0, %esi

	mov	REG_RAX(%rdi), %rax
	mov	REG_RBX(%rdi), %rbx
	mov	REG_RCX(%rdi), %rcx
	mov	REG_RDX(%rdi), %rdx
	mov	REG_RSI(%rdi), %rsi
	mov	REG_RBP(%rdi), %rbp
	mov	REG_R8(%rdi), %r8
	mov	REG_R9(%rdi), %r9
	mov	REG_R10(%rdi), %r10
	mov	REG_R11(%rdi), %r11
	mov	REG_R12(%rdi), %r12
	mov	REG_R13(%rdi), %r13
	mov	REG_R14(%rdi), %r14
	mov	REG_R15(%rdi), %r15
	mov	REG_RDI(%rdi), %rdi

	ALTERNATIVE "", "verw uvisor_verw_selector(%rip)", X86_FEATURE_CLEAR_CPU_BUF_VM

	jc	.Lresume

	UNWIND_HINT_SAVE
	vmlaunch
	jmp	.Lrefused
.Lresume:
	vmresume
	jmp	.Lrefused

SYM_INNER_LABEL_ALIGN(uvisor_exit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR
	push	%rdi
	mov	8(%rsp), %rdi
	mov	%rax, REG_RAX(%rdi)
	pop	REG_RDI(%rdi)
	mov	%rbx, REG_RBX(%rdi)
	mov	%rcx, REG_RCX(%rdi)
	mov	%rdx, REG_RDX(%rdi)
	mov	%rsi, REG_RSI(%rdi)
	mov	%rbp, REG_RBP(%rdi)
	mov	%r8, REG_R8(%rdi)
	mov	%r9, REG_R9(%rdi)
	mov	%r10, REG_R10(%rdi)
	mov	%r11, REG_R11(%rdi)
	mov	%r12, REG_R12(%rdi)
	mov	%r13, REG_R13(%rdi)
	mov	%r14, REG_R14(%rdi)
	mov	%r15, REG_R15(%rdi)

	xor	%ebx, %ebx
.Lclear:
	/* No guest value may steer what the host does speculatively. */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%ebp, %ebp
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d

	/* Before the first RET and the first indirect branch. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE

	ALTERNATIVE "jmp .Librs_done", "", X86_FEATURE_KERNEL_IBRS
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	wrmsr
.Librs_done:
	ALTERNATIVE "", "call uvisor_clear_branch_history", X86_FEATURE_CLEAR_BHB_VMEXIT

	mov	%ebx, %eax
	pop	%rdi
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

.Lrefused:
	mov	$1, %ebx
	jmp	.Lclear
SYM_FUNC_END(uvisor_enter)

/*
 * Fills the branch history with branches of our own: 64 taken ones, where Intel's
 * guidance on branch history injection asks for 60 on the CPUs that need software
 * for it (on later ones the kernel uses BHI_DIS_S).
 */
SYM_FUNC_START_LOCAL(uvisor_clear_branch_history)
	mov	$32, %ecx
.Lagain:
	jmp	.Ltaken
	int3
.Ltaken:
	dec	%ecx
	jnz	.Lagain
	lfence
	RET
SYM_FUNC_END(uvisor_clear_branch_history)
