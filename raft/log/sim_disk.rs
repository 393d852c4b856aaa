//! A disk in memory that loses what was not synced, and more if told to.
//!
//! Keeps: a write is readable at once and durable only after a sync of its file; a name is durable
//! only after a sync of the directory. A power cut keeps a random subset of the rest, page by
//! page, some pages torn at sectors. The same seed and the same calls give the same outcome.
//! Never: reads a clock, sleeps or draws other randomness; takes part in anything but simulation
//! and tests.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, File};
use super::format::{PAGE_BYTES, SECTOR_BYTES};

const PAGE: usize = PAGE_BYTES as usize;
const SECTOR: usize = SECTOR_BYTES as usize;

/// What goes wrong besides power cuts. Counters count down from the moment they are set.
#[derive(Clone, Default)]
pub struct Faults {
    /// The n-th sync from now (1 is the next) fails, and as on Linux the pages count as clean
    /// after it.
    pub fail_sync: Option<u64>,
    /// The n-th write from now fails and writes nothing.
    pub fail_write: Option<u64>,
    /// The n-th write from now lands this many bytes further, as if it had been asked to.
    pub misdirect_write: Option<(u64, u64)>,
    /// Every read of this file fails with an input/output error.
    pub fail_reads_of: Option<String>,
    /// Renames and syncs of the directory fail.
    pub fail_names: bool,
    /// Syncs succeed and make nothing durable.
    pub lying_sync: bool,
    /// No more than this may be allocated over all files.
    pub capacity_bytes: Option<u64>,
    /// Called in every sync, with the name the file was opened by, before it takes effect: to be
    /// slow, or to look.
    pub on_sync: Option<Arc<dyn Fn(&str) + Send + Sync>>,
}

/// Clones are the same disk; [`SimDisk::fork`] is another one with the same content.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    random: u64,
    files: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_pending: Vec<NameChange>,
    next_inode: u64,
    /// Handles of an earlier boot are dead.
    boot: u64,
    locked: bool,
    operations: u64,
    power_cut_at: Option<u64>,
    faults: Faults,
}

#[derive(Clone)]
enum NameChange {
    Put(String, u64),
    /// The file that is moved is known: an entry of a directory names an inode.
    Rename(String, String, u64),
    Remove(String),
}

#[derive(Clone, Default)]
struct Inode {
    now: Content,
    durable: Content,
    dirty_sectors: BTreeSet<u64>,
}

/// Pages that are missing are zeros.
#[derive(Clone, Default)]
struct Content {
    length: u64,
    /// Shared with forks and with what is durable until one of them changes.
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State {
                random: seed,
                files: BTreeMap::new(),
                names: BTreeMap::new(),
                names_durable: BTreeMap::new(),
                names_pending: Vec::new(),
                next_inode: 1,
                boot: 0,
                locked: false,
                operations: 0,
                power_cut_at: None,
                faults: Faults::default(),
            })),
        }
    }

    /// The power fails and comes back: what was not synced is kept or lost at random.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state.lock();
        state.random = seed;
        state.lose_unsynced();
        state.reboot();
    }

    /// The process dies and is started again; the kernel keeps everything.
    pub fn restart(&self) {
        self.state.lock().reboot();
    }

    /// The power fails at the `count`-th changing operation from now (1 is the next): it and all
    /// later ones fail until [`SimDisk::crash`].
    pub fn cut_power_after(&self, count: u64) {
        let mut state = self.state.lock();
        state.power_cut_at = Some(state.operations + count);
    }

    /// Changing operations so far: writes, syncs, allocations and changes of names.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// A disk of its own with the same content, powered on and not locked.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.state.lock().clone();
        state.faults = Faults::default();
        state.reboot();
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    pub fn contents(&self, name: &str) -> Vec<u8> {
        let state = self.state.lock();
        let content = &state.files[&state.names[name]].now;
        let mut bytes = vec![0; content.length as usize];
        content.read(&mut bytes, 0);
        bytes
    }

    /// Puts bytes in a file's place behind everybody's back, durably: damage, or an old copy.
    pub fn set_contents(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state.lock();
        let mut content = Content { length: bytes.len() as u64, pages: BTreeMap::new() };
        content.write(bytes, 0);
        let inode =
            Inode { now: content.clone(), durable: content, dirty_sectors: BTreeSet::new() };
        let number = state.add(inode);
        state.names.insert(name.to_owned(), number);
        state.names_durable.insert(name.to_owned(), number);
    }

    /// Removes a file behind everybody's back, durably.
    pub fn delete(&self, name: &str) {
        let mut state = self.state.lock();
        state.names.remove(name);
        state.names_durable.remove(name);
    }

    fn handle(&self, inode: u64, boot: u64, name: &str) -> Arc<dyn File> {
        Arc::new(SimFile { state: self.state.clone(), inode, boot, name: name.to_owned() })
    }
}

impl State {
    fn reboot(&mut self) {
        self.boot += 1;
        self.locked = false;
        self.power_cut_at = None;
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        self.files.insert(number, inode);
        number
    }

    fn change(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.power_cut_at {
            Some(at) if self.operations >= at => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }

    fn lose_unsynced(&mut self) {
        for number in self.files.keys().copied().collect::<Vec<_>>() {
            let mut inode = self.files.remove(&number).expect("listed just now");
            let dirty = std::mem::take(&mut inode.dirty_sectors);
            if inode.now.length != inode.durable.length && self.draw(2) == 0 {
                inode.durable.set_length(inode.now.length);
            }
            let mut page_fate = (u64::MAX, 0);
            for sector in dirty {
                let page = sector * SECTOR_BYTES / PAGE_BYTES;
                if page_fate.0 != page {
                    page_fate = (page, self.draw(3));
                }
                let kept = match page_fate.1 {
                    0 => true,
                    1 => false,
                    _ => self.draw(2) == 0,
                };
                if kept && sector * SECTOR_BYTES < inode.durable.length {
                    inode.keep(sector);
                }
            }
            inode.now = inode.durable.clone();
            self.files.insert(number, inode);
        }
        for change in std::mem::take(&mut self.names_pending) {
            if self.draw(2) == 0 {
                apply_name(&mut self.names_durable, change);
            }
        }
        self.names = self.names_durable.clone();
        self.forget_unnamed();
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|number, _| named.contains(number));
    }

    fn allocated(&self) -> u64 {
        self.names.values().map(|number| self.files[number].now.length).sum()
    }

    fn make_room(&self, more: u64) -> io::Result<()> {
        match self.faults.capacity_bytes {
            Some(capacity) if self.allocated() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: NameChange) {
    match change {
        NameChange::Put(name, inode) => {
            names.insert(name, inode);
        }
        // A change may survive although one it builds on did not.
        NameChange::Rename(from, to, inode) => {
            if names.get(&from) == Some(&inode) {
                names.remove(&from);
            }
            names.insert(to, inode);
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
    }
}

/// Counts a fault down; true when it strikes now.
fn strikes(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(1) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Inode {
    fn keep(&mut self, sector: u64) {
        let mut bytes = [0; SECTOR];
        self.now.read(&mut bytes, sector * SECTOR_BYTES);
        self.durable.write(&bytes, sector * SECTOR_BYTES);
    }
}

impl Content {
    /// Bytes past the end read as zeros.
    fn read(&self, buffer: &mut [u8], offset: u64) {
        buffer.fill(0);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset as usize + done;
            let count = (PAGE - at % PAGE).min(buffer.len() - done);
            if let Some(page) = self.pages.get(&((at / PAGE) as u64)) {
                buffer[done..done + count].copy_from_slice(&page[at % PAGE..at % PAGE + count]);
            }
            done += count;
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let count = (PAGE - at % PAGE).min(bytes.len() - done);
            let part = &bytes[done..done + count];
            let number = (at / PAGE) as u64;
            if self.pages.contains_key(&number) || part.iter().any(|byte| *byte != 0) {
                let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[at % PAGE..at % PAGE + count].copy_from_slice(part);
            }
            done += count;
        }
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.pages.retain(|number, _| number * PAGE_BYTES < length);
        }
        self.length = length;
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(SimLock { state: self.state.clone(), boot: state.boot }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.change()?;
        let inode = state.add(Inode::default());
        state.names.insert(name.to_owned(), inode);
        state.names_pending.push(NameChange::Put(name.to_owned(), inode));
        Ok(self.handle(inode, state.boot, name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let state = self.state.lock();
        let inode = state.find(name)?;
        Ok(self.handle(inode, state.boot, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let inode = state.find(from)?;
        if state.faults.fail_names {
            return Err(io::Error::other("injected: rename"));
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), inode);
        apply_name(&mut state.names, change.clone());
        state.names_pending.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.find(name)?;
        let change = NameChange::Remove(name.to_owned());
        apply_name(&mut state.names, change.clone());
        state.names_pending.push(change);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        if state.faults.fail_names {
            return Err(io::Error::other("injected: directory sync"));
        }
        if !state.faults.lying_sync {
            state.names_pending.clear();
            state.names_durable = state.names.clone();
        }
        Ok(())
    }
}

struct SimLock {
    state: Arc<Mutex<State>>,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.boot == self.boot {
            state.locked = false;
        }
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    boot: u64,
    name: String,
}

impl SimFile {
    fn alive(&self, state: &State) -> io::Result<()> {
        match state.boot == self.boot {
            true => Ok(()),
            false => Err(io::Error::other("a handle of a process that died")),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state.lock();
        self.alive(&state)?;
        if state.faults.fail_reads_of.as_ref() == Some(&self.name) {
            return Err(io::Error::other("injected: read"));
        }
        let content = &state.files[&self.inode].now;
        if offset + buffer.len() as u64 > content.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.read(buffer, offset);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], mut offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        self.alive(&state)?;
        state.change()?;
        if strikes(&mut state.faults.fail_write) {
            return Err(io::Error::other("injected: write"));
        }
        if let Some((mut countdown, by)) =
            state.faults.misdirect_write.map(|(left, by)| (Some(left), by))
        {
            if strikes(&mut countdown) {
                offset += by;
            }
            state.faults.misdirect_write = countdown.map(|left| (left, by));
        }
        let end = offset + bytes.len() as u64;
        let length = state.files[&self.inode].now.length;
        state.make_room(end.saturating_sub(length))?;
        let inode = state.files.get_mut(&self.inode).expect("open files keep their inode");
        inode.now.length = inode.now.length.max(end);
        inode.now.write(bytes, offset);
        inode.dirty_sectors.extend(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        self.alive(&state)?;
        state.change()?;
        let length = state.files[&self.inode].now.length;
        state.make_room(bytes.saturating_sub(length))?;
        let inode = state.files.get_mut(&self.inode).expect("open files keep their inode");
        inode.now.length = inode.now.length.max(bytes);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.state.lock();
        self.alive(&state)?;
        Ok(state.files[&self.inode].now.length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let hook = self.state.lock().faults.on_sync.clone();
        if let Some(hook) = hook {
            hook(&self.name);
        }
        let mut state = self.state.lock();
        self.alive(&state)?;
        state.change()?;
        let failing = strikes(&mut state.faults.fail_sync);
        let lying = state.faults.lying_sync;
        let inode = state.files.get_mut(&self.inode).expect("open files keep their inode");
        if lying {
            return Ok(());
        }
        let dirty = std::mem::take(&mut inode.dirty_sectors);
        if failing {
            return Err(io::Error::other("injected: sync"));
        }
        inode.durable.set_length(inode.now.length);
        for sector in dirty {
            inode.keep(sector);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &Arc<dyn File>, offset: u64) -> u8 {
        let mut byte = [0];
        file.read_at(&mut byte, offset).unwrap();
        byte[0]
    }

    #[test]
    fn what_was_synced_survives_a_power_cut_and_the_rest_may_not() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..64 {
            let disk = SimDisk::new(seed);
            let file = disk.create("a").unwrap();
            file.allocate(3 * PAGE_BYTES).unwrap();
            file.write_at(&[1; PAGE], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_directory().unwrap();
            file.write_at(&[2; PAGE], PAGE_BYTES).unwrap();
            disk.crash(seed);
            assert!(file.write_at(&[3], 0).is_err(), "the old process is dead");
            let contents = disk.contents("a");
            assert!(contents[..PAGE].iter().all(|byte| *byte == 1));
            let second: Vec<u8> = contents[PAGE..2 * PAGE].to_vec();
            assert!(second.chunks(SECTOR).all(|s| s.iter().all(|byte| *byte == s[0])));
            match second.iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                PAGE => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 5 && kept > 5 && torn > 5, "{lost} lost, {kept} kept, {torn} torn");
    }

    #[test]
    fn a_failed_sync_leaves_pages_readable_and_not_durable() {
        let disk = SimDisk::new(1);
        let file = disk.create("a").unwrap();
        file.allocate(PAGE_BYTES).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        disk.set_faults(Faults { fail_sync: Some(1), ..Faults::default() });
        file.write_at(&[9], 0).unwrap();
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok(), "a second sync lies, as Linux does");
        assert_eq!(read(&file, 0), 9);
        disk.crash(1);
        assert_eq!(read(&disk.open("a").unwrap(), 0), 0);
    }

    #[test]
    fn a_name_is_durable_after_a_directory_sync_only() {
        let survived = (0..32)
            .filter(|seed| {
                let disk = SimDisk::new(*seed);
                disk.create("a").unwrap();
                disk.crash(*seed);
                disk.open("a").is_ok()
            })
            .count();
        assert!((5..28).contains(&survived), "{survived}");
    }
}
