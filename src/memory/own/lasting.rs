//! Memory that is read without a copy by the kernel, because it cannot go away.
#![allow(unsafe_code)]

use std::ptr;

/// Memory that stays where it is for as long as the process runs, so that it may be read as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lasting {
    begin: usize,
    length: usize,
}

impl Lasting {
    /// What lies between `begin` and the end of the word at `last`, if that is all one variable of
    /// a loaded library.
    #[must_use]
    pub fn variable(begin: usize, last: usize) -> Option<Self> {
        let mut said = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: the address is only compared with those of the loaded objects; the answer is
        // initialised, if only with zeroes.
        let said = unsafe {
            if libc::dladdr(last as *const libc::c_void, said.as_mut_ptr()) == 0 {
                return None;
            }
            said.assume_init()
        };
        // A symbol that has a size is only named for addresses within it.
        (said.dli_saddr as usize == begin && last >= begin).then_some(Self {
            begin,
            length: last - begin + size_of::<usize>(),
        })
    }

    /// The word at `address`, if it belongs to this memory.
    #[must_use]
    pub fn word(self, address: usize) -> Option<usize> {
        let end = address.checked_add(size_of::<usize>())?;
        let is_within = address >= self.begin && end <= self.begin + self.length;
        if !is_within || !address.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        // SAFETY: `variable` has shown that this is part of a variable of a loaded library, and the
        // interpreter's stays loaded while our code runs. Others write it meanwhile: an aligned
        // word is read whole on every architecture, and volatile keeps it one read.
        Some(unsafe { ptr::read_volatile(address as *const usize) })
    }
}

#[cfg(test)]
mod tests {
    use super::Lasting;
    use crate::memory::own::{Circumstances, open};
    use crate::memory::read_word;

    #[test]
    fn only_variables_of_a_library_last() {
        // SAFETY: `environ` is a variable of the C library, or of the program in its stead.
        let variable = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"environ".as_ptr()) } as usize;
        let expected = read_word(
            open(Circumstances::default())
                .unwrap_or_else(|why| unreachable!("{why}"))
                .as_mut(),
            variable,
        );
        let lasting = Lasting::variable(variable, variable).unwrap_or_default();
        assert_eq!(lasting.word(variable), expected);
        assert_eq!(lasting.word(variable + 1), None);
        assert_eq!(lasting.word(variable + 8), None);
        assert_eq!(lasting.word(usize::MAX), None);
        let on_heap = Box::new(1_usize);
        let address = &raw const *on_heap as usize;
        assert!(Lasting::variable(address, address).is_none());
        assert!(Lasting::variable(variable, variable + (1 << 20)).is_none());
        assert_eq!(Lasting::default().word(variable), None);
    }
}
