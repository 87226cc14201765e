//! A Merkle tree that only grows (RFC 9162, section 2.1.1), kept as its peaks: the roots of the perfect subtrees that it
//! is made of, the largest first. One for each bit that is set in its size.

use sha2::{Digest, Sha256};

use super::Hash;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Hash>,
}

impl Tree {
    /// `None` where size and peaks do not belong together.
    pub fn from_bytes(size: u64, peaks: &[u8]) -> Option<Self> {
        let (peaks, rest) = peaks.as_chunks::<32>();
        let fits = rest.is_empty() && peaks.len() == size.count_ones() as usize;
        fits.then(|| Self { size, peaks: peaks.to_vec() })
    }

    pub fn peaks_to_bytes(&self) -> Vec<u8> {
        self.peaks.concat()
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn push(&mut self, data: &Hash) {
        let mut hash = Sha256::new_with_prefix([0x00]).chain_update(data).finalize().into();
        // Two perfect trees of one size make one of the next, as when 1 is added to a binary number.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = parent(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(smallest) = peaks.next() else { return Sha256::digest([]).into() };
        peaks.fold(*smallest, |right, left| parent(left, &right))
    }
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([0x01]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, as the standard writes it.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => Sha256::new_with_prefix([0x00]).chain_update(one).finalize().into(),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                parent(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_standard_at_every_size() {
        let leaves: Vec<Hash> = (0..70u8).map(|byte| Sha256::digest([byte]).into()).collect();
        let mut tree = Tree::default();
        assert_eq!(tree.root(), by_definition(&[]));
        for (before, leaf) in leaves.iter().enumerate() {
            tree.push(leaf);
            assert_eq!(tree.root(), by_definition(&leaves[..=before]));
            assert_eq!(Tree::from_bytes(tree.size(), &tree.peaks_to_bytes()).unwrap(), tree);
        }
    }

    #[test]
    fn peaks_that_do_not_fit_the_size_are_refused() {
        assert!(Tree::from_bytes(3, &[0; 32]).is_none());
        assert!(Tree::from_bytes(1, &[0; 31]).is_none());
        assert!(Tree::from_bytes(0, &[0; 32]).is_none());
    }
}
