//! Intervals of keys, asked which of them hold a key: an AVL tree that knows the largest end below
//! each node.
//!
//! Keeps true: nodes are ordered by (start, end, id); the heights of two siblings differ by one at
//! most; `reach` is the largest end in the subtree. A lookup skips every subtree that ends before
//! the key.
//! Never: an unbounded recursion. The depth is 1.44 times the logarithm of the number of
//! intervals.

use std::cmp::Ordering;

use bytes::Bytes;

use super::router::GroupId;

#[derive(Default)]
pub(super) struct Intervals {
    root: Tree,
}

type Tree = Option<Box<Node>>;

struct Node {
    start: Bytes,
    end: End,
    id: GroupId,
    reach: End,
    height: u32,
    left: Tree,
    right: Tree,
}

/// Where an interval stops: before a key, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    // Declared last: it is larger than every key.
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < end.as_ref(),
            End::Never => true,
        }
    }
}

impl From<Option<Bytes>> for End {
    fn from(end: Option<Bytes>) -> End {
        end.map_or(End::Never, End::Before)
    }
}

impl Intervals {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Adds `start` up to, not including, `end`.
    pub(super) fn insert(&mut self, start: Bytes, end: Option<Bytes>, id: GroupId) {
        let end = End::from(end);
        let reach = end.clone();
        let node = Node { start, end, id, reach, height: 1, left: None, right: None };
        self.root = Some(insert(self.root.take(), Box::new(node)));
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, start: &Bytes, end: Option<&Bytes>, id: GroupId) -> bool {
        let end = End::from(end.cloned());
        let mut found = false;
        self.root = remove(self.root.take(), &(start, &end, id), &mut found);
        found
    }

    pub(super) fn stab(&self, key: &[u8], reached: &mut impl FnMut(GroupId)) {
        stab(&self.root, key, reached);
    }
}

fn stab(tree: &Tree, key: &[u8], reached: &mut impl FnMut(GroupId)) {
    let Some(node) = tree else { return };
    if !node.reach.is_after(key) {
        return;
    }
    stab(&node.left, key, reached);
    // Everything to the right starts at or after this node.
    if node.start.as_ref() <= key {
        if node.end.is_after(key) {
            reached(node.id);
        }
        stab(&node.right, key, reached);
    }
}

fn insert(tree: Tree, new: Box<Node>) -> Box<Node> {
    let Some(mut node) = tree else { return new };
    match new.order().cmp(&node.order()) {
        Ordering::Less => node.left = Some(insert(node.left.take(), new)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), new)),
        Ordering::Equal => panic!("an interval is entered twice, for group {}", node.id),
    }
    balance(node)
}

fn remove(tree: Tree, gone: &(&Bytes, &End, GroupId), found: &mut bool) -> Tree {
    let mut node = tree?;
    match gone.cmp(&node.order()) {
        Ordering::Less => node.left = remove(node.left.take(), gone, found),
        Ordering::Greater => node.right = remove(node.right.take(), gone, found),
        Ordering::Equal => {
            *found = true;
            let Some(right) = node.right.take() else {
                return node.left.take();
            };
            let (mut next, right) = take_first(right);
            next.left = node.left.take();
            next.right = right;
            node = next;
        }
    }
    Some(balance(node))
}

/// The first node of a tree, cut loose, and the rest.
fn take_first(mut node: Box<Node>) -> (Box<Node>, Tree) {
    match node.left.take() {
        None => {
            let rest = node.right.take();
            (node, rest)
        }
        Some(left) => {
            let (first, rest) = take_first(left);
            node.left = rest;
            (first, Some(balance(node)))
        }
    }
}

fn balance(mut node: Box<Node>) -> Box<Node> {
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        let child = node.left.take().expect("the higher side is not empty");
        // A child that leans inwards is turned first, or the turn would only move the lean across.
        let leans_in = height(&child.right) > height(&child.left);
        node.left = Some(if leans_in { turn_left(child) } else { child });
        turn_right(node)
    } else if right > left + 1 {
        let child = node.right.take().expect("the higher side is not empty");
        let leans_in = height(&child.left) > height(&child.right);
        node.right = Some(if leans_in { turn_right(child) } else { child });
        turn_left(node)
    } else {
        node.refresh();
        node
    }
}

fn turn_left(mut node: Box<Node>) -> Box<Node> {
    let mut up = node.right.take().expect("a turn to the left lifts the right child");
    node.right = up.left.take();
    node.refresh();
    up.left = Some(node);
    up.refresh();
    up
}

fn turn_right(mut node: Box<Node>) -> Box<Node> {
    let mut up = node.left.take().expect("a turn to the right lifts the left child");
    node.left = up.right.take();
    node.refresh();
    up.right = Some(node);
    up.refresh();
    up
}

fn height(tree: &Tree) -> u32 {
    tree.as_ref().map_or(0, |node| node.height)
}

impl Node {
    fn order(&self) -> (&Bytes, &End, GroupId) {
        (&self.start, &self.end, self.id)
    }

    /// Height and reach, from the children's.
    fn refresh(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.reach);
        self.reach = below.chain([&self.end]).max().expect("its own end is among them").clone();
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Checks what must hold of every node; the number of nodes.
    fn check(tree: &Tree) -> usize {
        let Some(node) = tree else { return 0 };
        let count = 1 + check(&node.left) + check(&node.right);
        assert!(height(&node.left).abs_diff(height(&node.right)) <= 1, "the tree leans");
        assert_eq!(node.height, 1 + height(&node.left).max(height(&node.right)));
        if let Some(left) = &node.left {
            assert!(left.order() < node.order());
        }
        if let Some(right) = &node.right {
            assert!(node.order() < right.order());
        }
        let below = [&node.left, &node.right].into_iter().flatten().map(|node| node.reach.clone());
        assert_eq!(Some(&node.reach), below.chain([node.end.clone()]).max().as_ref());
        count
    }

    #[test]
    fn the_tree_stays_balanced_and_complete_through_inserts_and_removals() {
        for seed in 0..20 {
            println!("seed {seed}");
            let mut random = StdRng::seed_from_u64(seed);
            let mut intervals = Intervals::default();
            let mut model: Vec<(Bytes, Option<Bytes>, GroupId)> = Vec::new();
            for id in 0..600 {
                let mut key =
                    || Bytes::copy_from_slice(&random.random_range(0..200_u16).to_be_bytes());
                let (start, end) = (key(), key());
                let end = (id % 7 != 0).then_some(end);
                intervals.insert(start.clone(), end.clone(), id);
                model.push((start, end, id));
                if id % 3 == 2 {
                    let (start, end, id) = model.swap_remove(random.random_range(0..model.len()));
                    assert!(intervals.remove(&start, end.as_ref(), id));
                    assert!(!intervals.remove(&start, end.as_ref(), id));
                }
                assert_eq!(check(&intervals.root), model.len());
            }
            for key in 0..200_u16 {
                let key = key.to_be_bytes();
                let mut reached = Vec::new();
                intervals.stab(&key, &mut |id| reached.push(id));
                reached.sort_unstable();
                let mut wanted: Vec<GroupId> = model
                    .iter()
                    .filter(|(start, end, _)| {
                        start.as_ref() <= &key[..]
                            && end.as_ref().is_none_or(|end| end[..] > key[..])
                    })
                    .map(|(_, _, id)| *id)
                    .collect();
                wanted.sort_unstable();
                assert_eq!(reached, wanted);
            }
        }
    }
}
