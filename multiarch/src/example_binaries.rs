//! The binaries of the example: a tiny static Linux program for each platform, which prints its platform and exits with 0.
//!
//! They are written without a compiler, so that they have the same bytes everywhere. The text follows the code, which
//! finds it by its distance and works at any address. The programs for arm compute their exit status with an instruction
//! that older machines do not have, and declare that in `.ARM.attributes`, as a linker would.

use image_model::platform::Platform;
use image_store::atomic_file::TempFiles;
use image_store::directory::parent_dir;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tiny_elf::TinyElf;

/// The program for this platform, if there is one. `linux/arm64` and `linux/arm64/v8` are the same.
pub fn program(platform: &Platform) -> Option<Vec<u8>> {
    let machine = MACHINES.iter().find(|machine| machine.platform().matches(platform))?;
    Some(machine.file())
}

/// The platforms for which there is a program.
pub fn platforms() -> impl Iterator<Item = Platform> {
    MACHINES.iter().map(Machine::platform)
}

/// The path of the program of a platform: `DIR/linux-arm-v7/hello`.
pub fn path(dir: &Path, platform: &Platform) -> PathBuf {
    dir.join(platform.to_string().replace(['/', ':'], "-")).join("hello")
}

/// Writes every program below `dir`, executable. A file that has the right bytes is not changed.
pub fn write_all(dir: &Path) -> io::Result<()> {
    for machine in &MACHINES {
        let path = path(dir, &machine.platform());
        let bytes = machine.file();
        if fs::read(&path).is_ok_and(|found| found == bytes) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            continue;
        }
        fs::create_dir_all(parent_dir(&path))?;
        let mut file = TempFiles::default().create_in(parent_dir(&path), 0o755)?;
        file.as_file_mut().write_all(&bytes)?;
        // Independent of the umask, since the mode becomes that of the file in the image.
        file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
        file.persist(&path)?;
    }
    Ok(())
}

/// Values of the ELF header, and the code for a text of a given length.
struct Machine {
    os_arch: (&'static str, Option<&'static str>),
    bits: Bits,
    endian: Endian,
    /// e_machine and e_flags. Source: elf.h, and the processor supplements of the System V ABI.
    machine: u16,
    flags: u32,
    /// Tag_CPU_arch, for arm alone. Source: addenda32, "Tag_CPU_arch".
    arm_arch: Option<u8>,
    code: fn(u8) -> Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bits {
    B32,
    B64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endian {
    Little,
    Big,
}

use Bits::{B32, B64};
use Endian::{Big, Little};

#[rustfmt::skip]
const MACHINES: [Machine; 12] = [
    // EM_X86_64, EM_386
    Machine { os_arch: ("amd64", None), bits: B64, endian: Little, machine: 62, flags: 0, arm_arch: None, code: amd64 },
    Machine { os_arch: ("386", None), bits: B32, endian: Little, machine: 3, flags: 0, arm_arch: None, code: i386 },
    // EM_ARM, EABI version 5; neither soft nor hard float, since no float is used. v5TE, v6, v7.
    Machine { os_arch: ("arm", Some("v5")), bits: B32, endian: Little, machine: 40, flags: 0x0500_0000, arm_arch: Some(4), code: arm_v5 },
    Machine { os_arch: ("arm", Some("v6")), bits: B32, endian: Little, machine: 40, flags: 0x0500_0000, arm_arch: Some(6), code: arm_v6 },
    Machine { os_arch: ("arm", Some("v7")), bits: B32, endian: Little, machine: 40, flags: 0x0500_0000, arm_arch: Some(10), code: arm_v7 },
    // EM_AARCH64
    Machine { os_arch: ("arm64", None), bits: B64, endian: Little, machine: 183, flags: 0, arm_arch: None, code: arm64 },
    // EM_RISCV: no compressed instructions, no float
    Machine { os_arch: ("riscv64", None), bits: B64, endian: Little, machine: 243, flags: 0, arm_arch: None, code: riscv64 },
    // EM_PPC64, ELFv2
    Machine { os_arch: ("ppc64le", None), bits: B64, endian: Little, machine: 21, flags: 2, arm_arch: None, code: ppc64le },
    // EM_S390
    Machine { os_arch: ("s390x", None), bits: B64, endian: Big, machine: 22, flags: 0, arm_arch: None, code: s390x },
    // EM_MIPS: MIPS64 with the n64 ABI; MIPS32 with the o32 ABI
    Machine { os_arch: ("mips64le", None), bits: B64, endian: Little, machine: 8, flags: 0x6000_0000, arm_arch: None, code: mips64le },
    Machine { os_arch: ("mipsle", None), bits: B32, endian: Little, machine: 8, flags: 0x5000_1000, arm_arch: None, code: mipsle },
    // EM_LOONGARCH: lp64d, object ABI version 1
    Machine { os_arch: ("loong64", None), bits: B64, endian: Little, machine: 258, flags: 0x43, arm_arch: None, code: loong64 },
];

impl Machine {
    fn platform(&self) -> Platform {
        Platform::new("linux", self.os_arch.0, self.os_arch.1)
    }

    fn file(&self) -> Vec<u8> {
        let text = format!("{}\n", self.platform());
        let code = (self.code)(u8::try_from(text.len()).unwrap_or(u8::MAX));
        let loaded = [code.as_slice(), text.as_bytes()].concat();
        let elf = TinyElf::new(self.bits == B64, self.endian == Big, self.machine, self.flags, &loaded);
        match self.arm_arch {
            None => elf.to_bytes(),
            Some(level) => elf.arm_attributes(&arm_attributes(level)).to_bytes(),
        }
    }
}

/// The content of `.ARM.attributes`. Source: addenda32, "Encoding of build attributes": a format letter, then a
/// vendor's part, in it one part for the whole file, in it pairs of tag and value.
fn arm_attributes(level: u8) -> Vec<u8> {
    let mut pairs = vec![6, level]; // Tag_CPU_arch
    if level == 10 {
        pairs.extend([7, b'A']); // Tag_CPU_arch_profile: application
    }
    pairs.extend([8, 1]); // Tag_ARM_ISA_use: yes
    // Both lengths count themselves and all that follows them in their part.
    let whole_file = 1 + 4 + pairs.len() as u32;
    let vendor = 4 + b"aeabi\0".len() as u32 + whole_file;
    let mut out = vec![b'A'];
    out.extend(vendor.to_le_bytes());
    out.extend(b"aeabi\0");
    out.push(1); // Tag_File
    out.extend(whole_file.to_le_bytes());
    out.extend(pairs);
    out
}

fn little(instructions: &[u32]) -> Vec<u8> {
    instructions.iter().flat_map(|word| word.to_le_bytes()).collect()
}

// The code: write(1, text, length), then exit(0). The text stands right behind the last instruction, so its
// distance from an instruction is what is left of the code. System call numbers: the kernel's unistd.h of each.

fn amd64(length: u8) -> Vec<u8> {
    [
        &[0xb8, 1, 0, 0, 0][..],          // mov  eax, 1         write
        &[0x89, 0xc7],                    // mov  edi, eax       standard output
        &[0x48, 0x8d, 0x35, 16, 0, 0, 0], // lea  rsi, [rip+16]  the text
        &[0xba, length, 0, 0, 0],         // mov  edx, length
        &[0x0f, 0x05],                    // syscall
        &[0xb8, 60, 0, 0, 0],             // mov  eax, 60        exit
        &[0x31, 0xff],                    // xor  edi, edi       status 0
        &[0x0f, 0x05],                    // syscall
    ]
    .concat()
}

fn i386(length: u8) -> Vec<u8> {
    [
        &[0xb8, 4, 0, 0, 0][..],  // mov  eax, 4         write
        &[0xbb, 1, 0, 0, 0],      // mov  ebx, 1         standard output
        &[0xe8, 0, 0, 0, 0],      // call next           there is no other way to learn the address
        &[0x59],                  // pop  ecx
        &[0x83, 0xc1, 20],        // add  ecx, 20        the text
        &[0xba, length, 0, 0, 0], // mov  edx, length
        &[0xcd, 0x80],            // int  0x80
        &[0xb8, 1, 0, 0, 0],      // mov  eax, 1         exit
        &[0x31, 0xdb],            // xor  ebx, ebx       status 0
        &[0xcd, 0x80],            // int  0x80
    ]
    .concat()
}

fn arm_v5(length: u8) -> Vec<u8> {
    arm(
        length,
        &[
            0xe3e0_0000, // mvn  r0, #0
            0xe16f_0f10, // clz  r0, r0         counts 0 zeros; not before ARMv5
        ],
    )
}

fn arm_v6(length: u8) -> Vec<u8> {
    arm(
        length,
        &[
            0xe3a0_0000, // mov  r0, #0
            0xe6bf_0f30, // rev  r0, r0         not before ARMv6
        ],
    )
}

fn arm_v7(length: u8) -> Vec<u8> {
    arm(
        length,
        &[
            0xe300_0000, // movw r0, #0         not before ARMv7 (and v6T2)
        ],
    )
}

/// `zero` puts the exit status 0 into r0.
fn arm(length: u8, zero: &[u32]) -> Vec<u8> {
    let text = 16 + 4 * zero.len() as u32; // pc reads as two instructions ahead
    let write = [
        0xe3a0_0001,                     // mov  r0, #1         standard output
        0xe28f_1000 | text,              // add  r1, pc, #text
        0xe3a0_2000 | u32::from(length), // mov  r2, #length
        0xe3a0_7004,                     // mov  r7, #4         write
        0xef00_0000,                     // svc  #0
    ];
    let exit = [
        0xe3a0_7001, // mov  r7, #1         exit
        0xef00_0000, // svc  #0
    ];
    little(&[&write, zero, &exit].concat())
}

fn arm64(length: u8) -> Vec<u8> {
    little(&[
        0xd280_0020,                          // mov  x0, #1         standard output
        0x1000_00e1,                          // adr  x1, #28        the text
        0xd280_0002 | u32::from(length) << 5, // mov  x2, #length
        0xd280_0808,                          // mov  x8, #64        write
        0xd400_0001,                          // svc  #0
        0xd280_0000,                          // mov  x0, #0         status 0
        0xd280_0ba8,                          // mov  x8, #93        exit
        0xd400_0001,                          // svc  #0
    ])
}

fn riscv64(length: u8) -> Vec<u8> {
    little(&[
        0x0010_0513,                           // addi  a0, zero, 1   standard output
        0x0000_0597,                           // auipc a1, 0
        0x0205_8593,                           // addi  a1, a1, 32    the text
        0x0000_0613 | u32::from(length) << 20, // addi a2, zero, length
        0x0400_0893,                           // addi  a7, zero, 64  write
        0x0000_0073,                           // ecall
        0x0000_0513,                           // addi  a0, zero, 0   status 0
        0x05d0_0893,                           // addi  a7, zero, 93  exit
        0x0000_0073,                           // ecall
    ])
}

fn ppc64le(length: u8) -> Vec<u8> {
    little(&[
        0x4800_0005,                     // bl   .+4            the next address into lr
        0x7c88_02a6,                     // mflr r4
        0x3884_0024,                     // addi r4, r4, 36     the text
        0x3800_0004,                     // li   r0, 4          write
        0x3860_0001,                     // li   r3, 1          standard output
        0x38a0_0000 | u32::from(length), // li   r5, length
        0x4400_0002,                     // sc
        0x3800_0001,                     // li   r0, 1          exit
        0x3860_0000,                     // li   r3, 0          status 0
        0x4400_0002,                     // sc
    ])
}

fn s390x(length: u8) -> Vec<u8> {
    [
        &[0xa7, 0x29, 0, 1][..],   // lghi r2, 1          standard output
        &[0xc0, 0x30, 0, 0, 0, 9], // larl r3, .+18       the text; counted in half words
        &[0xa7, 0x49, 0, length],  // lghi r4, length
        &[0x0a, 4],                // svc  4              write
        &[0xa7, 0x29, 0, 0],       // lghi r2, 0          status 0
        &[0x0a, 1],                // svc  1              exit
    ]
    .concat()
}

fn mips64le(length: u8) -> Vec<u8> {
    // n64: write is 5001, exit 5058; daddiu a1, ra, 32
    mips(length, 0x67e5_0020, 0x1389, 0x13c2)
}

fn mipsle(length: u8) -> Vec<u8> {
    // o32: write is 4004, exit 4001; addiu a1, ra, 32
    mips(length, 0x27e5_0020, 0x0fa4, 0x0fa1)
}

fn mips(length: u8, text: u32, write: u32, exit: u32) -> Vec<u8> {
    little(&[
        0x0411_0001,                     // bal  .+8            the address of "text" into ra
        0x0000_0000,                     // nop                 the delay slot
        text,                            // add  a1, ra, 32     the text
        0x2402_0000 | write,             // li   v0, write
        0x2404_0001,                     // li   a0, 1          standard output
        0x2406_0000 | u32::from(length), // li   a2, length
        0x0000_000c,                     // syscall
        0x2402_0000 | exit,              // li   v0, exit
        0x2404_0000,                     // li   a0, 0          status 0
        0x0000_000c,                     // syscall
    ])
}

fn loong64(length: u8) -> Vec<u8> {
    little(&[
        0x0280_0404,                           // addi.w a0, zero, 1  standard output
        0x1800_00e5,                           // pcaddi a1, 7        the text; counted in words
        0x0280_0006 | u32::from(length) << 10, // addi.w a2, zero, length
        0x0281_000b,                           // addi.w a7, zero, 64 write
        0x002b_0000,                           // syscall 0
        0x0280_0004,                           // addi.w a0, zero, 0  status 0
        0x0281_740b,                           // addi.w a7, zero, 93 exit
        0x002b_0000,                           // syscall 0
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// QEMU's name for each machine. Debian and Fedora put `-static` behind it.
    const EMULATORS: [(&str, &str); 12] = [
        ("linux/amd64", "x86_64"),
        ("linux/386", "i386"),
        ("linux/arm/v5", "arm"),
        ("linux/arm/v6", "arm"),
        ("linux/arm/v7", "arm"),
        ("linux/arm64", "aarch64"),
        ("linux/riscv64", "riscv64"),
        ("linux/ppc64le", "ppc64le"),
        ("linux/s390x", "s390x"),
        ("linux/mips64le", "mips64el"),
        ("linux/mipsle", "mipsel"),
        ("linux/loong64", "loongarch64"),
    ];

    fn must_run() -> bool {
        std::env::var_os("MULTIARCH_REQUIRE_WORLD").is_some_and(|value| value == "1")
    }

    fn written() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path()).unwrap();
        dir
    }

    /// Runs a program under an emulator; `None` where there is no such emulator.
    fn run(qemu: &str, cpu: Option<&str>, program: &Path) -> Option<std::process::Output> {
        let mut command = Command::new(format!("qemu-{qemu}-static"));
        command.args(cpu.iter().flat_map(|cpu| ["-cpu", cpu]));
        match command.arg(program).output() {
            Ok(output) => Some(output),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                assert!(!must_run(), "qemu-{qemu}-static is not installed");
                eprintln!("skipped: qemu-{qemu}-static is not installed");
                None
            }
            Err(error) => panic!("qemu-{qemu}-static: {error}"),
        }
    }

    #[test]
    fn each_program_prints_its_platform_under_its_emulator() {
        let dir = written();
        assert_eq!(platforms().map(|p| p.to_string()).collect::<Vec<_>>(), EMULATORS.map(|(p, _)| p));
        for (platform, qemu) in EMULATORS {
            let file = path(dir.path(), &platform.parse().unwrap());
            if let Some(output) = run(qemu, None, &file) {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert_eq!((said.as_str(), output.status.code()), (&*format!("{platform}\n"), Some(0)));
            }
        }
    }

    #[test]
    fn an_older_arm_cpu_fails_at_the_instruction_that_it_does_not_have() {
        let dir = written();
        let check = |platform: &str, cpu: &str, runs: bool| {
            let file = path(dir.path(), &platform.parse().unwrap());
            if let Some(output) = run("arm", Some(cpu), &file) {
                assert_eq!(output.status.success(), runs, "{platform} on {cpu}");
            }
        };
        check("linux/arm/v5", "arm926", true);
        check("linux/arm/v6", "arm926", false);
        check("linux/arm/v7", "arm926", false);
        check("linux/arm/v6", "arm1176", true);
        check("linux/arm/v7", "arm1176", false);
        check("linux/arm/v7", "cortex-a7", true);
    }

    #[test]
    fn readelf_finds_nothing_wrong_and_reads_the_arm_level() {
        let dir = written();
        for platform in platforms() {
            let file = path(dir.path(), &platform);
            let output = match Command::new("readelf").env("LC_ALL", "C").arg("-hlA").arg(&file).output() {
                Ok(output) => output,
                Err(_) => {
                    assert!(!must_run(), "readelf is not installed");
                    return eprintln!("skipped: readelf is not installed");
                }
            };
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let warned = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((warned.as_str(), output.status.code()), ("", Some(0)), "{platform}");
            let level = said.lines().find_map(|line| line.trim().strip_prefix("Tag_CPU_arch: "));
            let wanted = match platform.variant.as_deref() {
                Some("v5") => Some("v5TE"),
                wanted => wanted,
            };
            assert_eq!(level, wanted, "{platform}");
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("R E 0x10000"), "{platform}: {said}");
        }
    }

    #[test]
    fn a_platform_without_a_program_has_none() {
        let check = |platform: &str, there: bool| {
            assert_eq!(program(&platform.parse().unwrap()).is_some(), there, "{platform}");
        };
        check("linux/arm64/v8", true);
        check("linux/arm", true);
        check("linux/armel", true);
        check("linux/amd64/v3", false);
        check("windows/amd64", false);
        check("linux/sparc64", false);
    }

    #[test]
    fn a_second_write_changes_no_file() {
        let dir = written();
        let file = path(dir.path(), &"linux/s390x".parse().unwrap());
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        write_all(dir.path()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
