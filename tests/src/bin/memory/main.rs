// SPDX-License-Identifier: GPL-2.0

//! What a guest can reach, and that it and the host see the same memory.

mod files;
mod host;
mod machine;
mod moved;
mod permissions;
mod shared;
mod user;
mod vvar;

use uvisor_tests::Tap;

fn main() {
    let mut tap = Tap::new();
    tap.test("each permission and each access", permissions::matrix);
    tap.test("accesses across pages", permissions::crossing);
    tap.test(
        "PROTECT and UNMAP of parts, of pages in use",
        permissions::protect_and_unmap,
    );
    tap.test("a file's page is the host's own", files::shared_file);
    tap.test(
        "a file's page is copied when it is written",
        files::copied_file,
    );
    tap.test("where a file ends", files::file_end);
    tap.test("a file that is written in place", shared::in_place);
    tap.test("its holes and its end", shared::holes);
    tap.test("its pages are not lost", shared::kept);
    tap.test("its permission", shared::permission);
    tap.test("its seals", shared::seals);
    tap.test("clones of it, and a template", shared::clones);
    tap.test("memory of the process's", user::follows);
    tap.test("its memory that a child copies", user::forked);
    tap.test("its files", user::files);
    tap.test("its pages that only the guest writes", user::kept);
    tap.test("its memory that is none", user::strange);
    tap.test("what its memory cannot be", user::errors);
    tap.test("its memory by pread and pwrite", user::by_the_file);
    tap.test("its memory, of which parts are changed", user::changed);
    tap.test("its memory in clones and views", user::clones_and_views);
    tap.test("memory of another process's", user::elsewhere);
    tap.test("its memory, and who goes first", user::endings);
    tap.test("a range that is moved", moved::anonymous);
    tap.test("a file's range that is moved", moved::file);
    tap.test("a clone's range that is moved", moved::of_a_clone);
    tap.test(
        "a range that cannot be moved for lack of memory",
        moved::limit,
    );
    tap.test("the data of the vDSO", vvar::pages);
    tap.test("the code of the vDSO", vvar::time);
    tap.test(
        "the host's mapping shows the same pages, with the same permission",
        host::host_mapping,
    );
    tap.test(
        "copy on write through the host's mapping",
        host::host_mapping_of_file,
    );
    tap.test("pread and pwrite", host::positioned);
    tap.test("system calls on guest memory", host::through_the_kernel);
    tap.test("a forked child", host::forked);
    tap.finish();
}
