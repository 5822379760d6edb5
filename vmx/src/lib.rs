// SPDX-License-Identifier: GPL-2.0

//! Empty yet.

#![cfg_attr(not(any(test, MODULE)), no_std)]
