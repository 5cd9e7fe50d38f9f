//! Machine code of one tiny program per machine, which writes 16 bytes of `argv[0]` to stdout and exits with 40 + argc.
//!
//! Run with a random `argv[0]`, it proves that the emulator or the CPU executed the instructions, whether it passed
//! `argv[0]` (flag P) or the path, and that no argument was lost. The programs have no libc, data or relocations. In C:
//!
//! ```c
//! void _start(void) { /* stack: argc, argv[0], argv[1], ... */
//!     write(1, argv[0], 16);
//!     exit(40 + argc);
//! }
//! ```

use crate::elf::{Class, Data, Ident};
use tiny_elf::TinyElf;

/// Bytes of `argv[0]` that every program writes.
pub const WRITTEN: usize = 16;
/// A program exits with this plus argc.
pub const EXIT_BASE: i32 = 40;

#[derive(Debug)]
pub struct Program {
    /// `e_flags` of the ELF header: the emulator selects ABI or CPU by it.
    pub elf_flags: u32,
    pub code: Code,
}

#[derive(Debug)]
pub enum Code {
    /// Instructions of varying length, as in memory.
    Bytes(&'static [u8]),
    /// 16-bit instructions in the byte order of the machine's data.
    Halves(&'static [u16]),
    /// Fixed 32-bit instructions in the byte order of the machine's data.
    Words(&'static [u32]),
    /// Fixed 32-bit instructions that are little-endian whatever the data is.
    LittleWords(&'static [u32]),
}

/// The program as an ELF executable. The code is aligned to 8 bytes, which is enough for every machine.
pub fn elf(program: &Program, ident: Ident) -> Vec<u8> {
    let Ident { class, data, machine } = ident;
    let code = code_bytes(program, data);
    TinyElf::new(class == Class::Bits64, data == Data::Big, machine, program.elf_flags, &code)
        .code_alignment(8)
        .to_bytes()
}

fn code_bytes(program: &Program, data: Data) -> Vec<u8> {
    match program.code {
        Code::Bytes(bytes) => bytes.to_vec(),
        Code::Halves(halves) => halves.iter().flat_map(|half| data.u16(*half)).collect(),
        Code::Words(words) => words.iter().flat_map(|word| data.u32(*word)).collect(),
        Code::LittleWords(words) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
    }
}

/// The x86-64 program with room for instructions that a CPU of a given level (x86-64 psABI) has and the level below
/// does not have. Syscalls: write 1, exit 60.
macro_rules! amd64 {
    ($($level:expr),*) => {
        Program {
            elf_flags: 0,
            code: Code::Bytes(&[
                0x8b, 0x1c, 0x24, // mov (%rsp),%ebx            argc
                0x48, 0x8b, 0x74, 0x24, 0x08, // mov 8(%rsp),%rsi           argv[0]
                $($level,)*
                0xb8, 1, 0, 0, 0, // mov $1,%eax                write
                0x89, 0xc7, // mov %eax,%edi              stdout is 1 as well
                0xba, 16, 0, 0, 0, // mov $16,%edx
                0x0f, 0x05, // syscall
                0x8d, 0x7b, 40, // lea 40(%rbx),%edi
                0xb8, 60, 0, 0, 0, // mov $60,%eax               exit
                0x0f, 0x05, // syscall
            ]),
        }
    };
}
pub static AMD64: Program = amd64![];
pub static AMD64_V2: Program = amd64![
    0x66, 0x0f, 0x38, 0x00, 0xc0, // pshufb %xmm0,%xmm0         SSSE3
    0x66, 0x0f, 0x38, 0x17, 0xc0, // ptest %xmm0,%xmm0          SSE4.1
    0xf2, 0x0f, 0x38, 0xf1, 0xc0, // crc32l %eax,%eax           SSE4.2
    0xf3, 0x0f, 0xb8, 0xc0 // popcnt %eax,%eax
];
pub static AMD64_V3: Program = amd64![
    0xc5, 0xfd, 0xfe, 0xc0, // vpaddd %ymm0,%ymm0,%ymm0   AVX2
    0xc4, 0xe2, 0x78, 0xf2, 0xc0, // andn %eax,%eax,%eax        BMI1
    0xc4, 0xe2, 0x7b, 0xf5, 0xc0, // pdep %eax,%eax,%eax        BMI2
    0xc4, 0xe2, 0x7d, 0xb8, 0xc0 // vfmadd231ps %ymm0,%ymm0,%ymm0  FMA
];
pub static AMD64_V4: Program = amd64![
    0x62, 0xf1, 0x7d, 0x48, 0xfe, 0xc0, // vpaddd %zmm0,%zmm0,%zmm0   AVX512F
    0x62, 0xf1, 0x7d, 0x48, 0xfc, 0xc0, // vpaddb %zmm0,%zmm0,%zmm0   AVX512BW
    0x62, 0xf2, 0xfd, 0x48, 0x40, 0xc0, // vpmullq %zmm0,%zmm0,%zmm0  AVX512DQ
    0x62, 0xf2, 0x7d, 0x48, 0xc4, 0xc0, // vpconflictd %zmm0,%zmm0    AVX512CD
    0x62, 0xf1, 0x7d, 0x28, 0xfe, 0xc0 // vpaddd by EVEX on %ymm0    AVX512VL
];

const X86_32: Code = Code::Bytes(&[
    0x8b, 0x34, 0x24, // mov (%esp),%esi            argc
    0x8b, 0x4c, 0x24, 0x04, // mov 4(%esp),%ecx           argv[0]
    0xb8, 4, 0, 0, 0, // mov $4,%eax                write
    0xbb, 1, 0, 0, 0, // mov $1,%ebx
    0xba, 16, 0, 0, 0, // mov $16,%edx
    0xcd, 0x80, // int $0x80
    0x8d, 0x5e, 40, // lea 40(%esi),%ebx
    0xb8, 1, 0, 0, 0, // mov $1,%eax                exit
    0xcd, 0x80, // int $0x80
]);
pub static I386: Program = Program { elf_flags: 0, code: X86_32 };

/// EF_ARM_EABI_VER5.
const EABI5: u32 = 0x0500_0000;

/// The ARM program with room for instructions that a CPU of a given level has and the level below does not have.
macro_rules! arm {
    ($($level:expr),*) => {
        Program {
            elf_flags: EABI5,
            code: Code::Words(&[
                0xe59d_4000, // ldr r4,[sp]                argc
                0xe59d_1004, // ldr r1,[sp,#4]             argv[0]
                $($level,)*
                0xe3a0_0001, // mov r0,#1
                0xe3a0_2010, // mov r2,#16
                0xe3a0_7004, // mov r7,#4                  write
                0xef00_0000, // svc 0
                0xe284_0028, // add r0,r4,#40
                0xe3a0_7001, // mov r7,#1                  exit
                0xef00_0000, // svc 0
            ]),
        }
    };
}
/// ARMv4 encodings only: every ARM CPU that QEMU emulates runs them.
pub static ARM: Program = arm![];
/// Without EF_ARM_BE8 code is big-endian as data is.
pub static ARMBE: Program = arm![];
/// clz r3,r0 and qadd r3,r3,r3: SIGILL below v5TE.
pub static ARM_V5: Program = arm![0xe16f_3f10, 0xe103_3053];
/// rev r3,r0 and uxtb r3,r3: SIGILL below v6.
pub static ARM_V6: Program = arm![0xe6bf_3f30, 0xe6ef_3073];
/// movw r3,#1, ubfx r3,r3,#0,#4 and dmb sy: SIGILL below v7.
pub static ARM_V7: Program = arm![0xe300_3001, 0xe7e3_3053, 0xf57f_f05f];
/// `lda r3,\[sp\]`, a load with acquire: SIGILL below v8.
pub static ARM_V8: Program = arm![0xe19d_3c9f];

/// AArch64; asm-generic syscalls: write 64, exit 93. Instructions are little-endian, also in a big-endian program.
const AARCH64: Code = Code::LittleWords(&[
    0xf940_03f3, // ldr x19,[sp]               argc
    0xf940_07e1, // ldr x1,[sp,#8]             argv[0]
    0xd280_0020, // mov x0,#1
    0xd280_0202, // mov x2,#16
    0xd280_0808, // mov x8,#64
    0xd400_0001, // svc #0
    0x9100_a260, // add x0,x19,#40
    0xd280_0ba8, // mov x8,#93
    0xd400_0001, // svc #0
]);
pub static ARM64: Program = Program { elf_flags: 0, code: AARCH64 };
pub static ARM64BE: Program = Program { elf_flags: 0, code: AARCH64 };

macro_rules! riscv {
    ($load_argc:expr, $load_argv:expr) => {
        Program {
            elf_flags: 0,
            code: Code::Words(&[
                $load_argc,
                $load_argv,
                0x0010_0513, // li a0,1
                0x0100_0613, // li a2,16
                0x0400_0893, // li a7,64
                0x0000_0073, // ecall
                0x0284_0513, // addi a0,s0,40
                0x05d0_0893, // li a7,93
                0x0000_0073, // ecall
            ]),
        }
    };
}
/// RV64I: ld s0,0(sp); ld a1,8(sp).
pub static RISCV64: Program = riscv!(0x0001_3403, 0x0081_3583);
/// RV32I: lw s0,0(sp); lw a1,4(sp).
pub static RISCV32: Program = riscv!(0x0001_2403, 0x0041_2583);

macro_rules! power {
    ($flags:expr, $load_argc:expr, $load_argv:expr) => {
        Program {
            elf_flags: $flags,
            code: Code::Words(&[
                $load_argc,
                $load_argv,
                0x3860_0001, // li r3,1
                0x38a0_0010, // li r5,16
                0x3800_0004, // li r0,4                    write
                0x4400_0002, // sc
                0x387f_0028, // addi r3,r31,40
                0x3800_0001, // li r0,1                    exit
                0x4400_0002, // sc
            ]),
        }
    };
}
/// ld r31,0(r1); ld r4,8(r1). e_flags 2 is ELFv2: the entry is code, not a function descriptor.
pub static PPC64LE: Program = power!(2, 0xebe1_0000, 0xe881_0008);
pub static PPC64: Program = power!(2, 0xebe1_0000, 0xe881_0008);
/// lwz r31,0(r1); lwz r4,4(r1).
pub static PPC: Program = power!(0, 0x83e1_0000, 0x8081_0004);

/// z900 instructions, of 2, 4 and 6 bytes.
pub static S390X: Program = Program {
    elf_flags: 0,
    code: Code::Bytes(&[
        0xe3, 0x90, 0xf0, 0x00, 0x00, 0x04, // lg %r9,0(%r15)             argc
        0xe3, 0x30, 0xf0, 0x08, 0x00, 0x04, // lg %r3,8(%r15)             argv[0]
        0xa7, 0x29, 0x00, 0x01, // lghi %r2,1
        0xa7, 0x49, 0x00, 0x10, // lghi %r4,16
        0x0a, 0x04, // svc 4                      write
        0x41, 0x20, 0x90, 0x28, // la %r2,40(%r9)
        0x0a, 0x01, // svc 1                      exit
    ]),
};

macro_rules! mips {
    ($flags:expr, $load_argc:expr, $load_argv:expr, write $write:expr, exit $exit:expr) => {
        Program {
            elf_flags: $flags,
            code: Code::Words(&[
                $load_argc,
                $load_argv,
                0x2404_0001,          // li a0,1
                0x2406_0010,          // li a2,16
                0x2402_0000 | $write, // li v0,WRITE
                0x0000_000c,          // syscall
                0x2604_0028,          // addiu a0,s0,40
                0x2402_0000 | $exit,  // li v0,EXIT
                0x0000_000c,          // syscall
            ]),
        }
    };
}
// lw s0,0(sp); lw a1,4(sp) with 32-bit pointers, ld and 8 with 64. Each ABI numbers its syscalls from its own thousand.
// e_flags: EF_MIPS_ARCH_32 | EF_MIPS_ABI_O32; EF_MIPS_ARCH_64; EF_MIPS_ARCH_64 | EF_MIPS_ABI2.
pub static MIPS: Program = mips!(0x5000_1000, 0x8fb0_0000, 0x8fa5_0004, write 4004, exit 4001);
pub static MIPSLE: Program = mips!(0x5000_1000, 0x8fb0_0000, 0x8fa5_0004, write 4004, exit 4001);
pub static MIPS64: Program = mips!(0x6000_0000, 0xdfb0_0000, 0xdfa5_0008, write 5001, exit 5058);
pub static MIPS64LE: Program = mips!(0x6000_0000, 0xdfb0_0000, 0xdfa5_0008, write 5001, exit 5058);
pub static MIPSN32: Program = mips!(0x6000_0020, 0x8fb0_0000, 0x8fa5_0004, write 6001, exit 6058);
pub static MIPSN32LE: Program = mips!(0x6000_0020, 0x8fb0_0000, 0x8fa5_0004, write 6001, exit 6058);

/// e_flags: LP64D, object ABI 1.
pub static LOONG64: Program = Program {
    elf_flags: 0x43,
    code: Code::Words(&[
        0x28c0_0077, // ld.d $s0,$sp,0             argc
        0x28c0_2065, // ld.d $a1,$sp,8             argv[0]
        0x0280_0404, // addi.w $a0,$zero,1
        0x0280_4006, // addi.w $a2,$zero,16
        0x0281_000b, // addi.w $a7,$zero,64        write
        0x002b_0000, // syscall 0
        0x0280_a2e4, // addi.w $a0,$s0,40
        0x0281_740b, // addi.w $a7,$zero,93        exit
        0x002b_0000, // syscall 0
    ]),
};

/// The kernel leaves room for a register window, 128 bytes, below argc; 2047 is the V9 stack bias.
pub static SPARC64: Program = Program {
    elf_flags: 0,
    code: Code::Words(&[
        0xe05b_a87f, // ldx [%sp+2047+128],%l0     argc
        0xd25b_a887, // ldx [%sp+2047+136],%o1     argv[0]
        0x9010_2001, // mov 1,%o0
        0x9410_2010, // mov 16,%o2
        0x8210_2004, // mov 4,%g1                  write
        0x91d0_206d, // ta 0x6d
        0x9004_2028, // add %l0,40,%o0
        0x8210_2001, // mov 1,%g1                  exit
        0x91d0_206d, // ta 0x6d
    ]),
};

macro_rules! sparc32 {
    ($flags:expr) => {
        Program {
            elf_flags: $flags,
            code: Code::Words(&[
                0xe003_a040, // ld [%sp+64],%l0            argc, after a register window
                0xd203_a044, // ld [%sp+68],%o1            argv[0]
                0x9010_2001, // mov 1,%o0
                0x9410_2010, // mov 16,%o2
                0x8210_2004, // mov 4,%g1                  write
                0x91d0_2010, // ta 0x10
                0x9004_2028, // add %l0,40,%o0
                0x8210_2001, // mov 1,%g1                  exit
                0x91d0_2010, // ta 0x10
            ]),
        }
    };
}
pub static SPARC: Program = sparc32!(0);
/// EF_SPARC_32PLUS, which this e_machine requires.
pub static SPARC32PLUS: Program = sparc32!(0x100);

/// The syscall numbers are those of OSF/1.
pub static ALPHA: Program = Program {
    elf_flags: 0,
    code: Code::Words(&[
        0xa53e_0000, // ldq s0,0(sp)               argc
        0xa63e_0008, // ldq a1,8(sp)               argv[0]
        0x221f_0001, // lda a0,1
        0x225f_0010, // lda a2,16
        0x201f_0004, // lda v0,4                   write
        0x0000_0083, // call_pal callsys
        0x4125_1410, // addq s0,40,a0
        0x201f_0001, // lda v0,1                   exit
        0x0000_0083, // call_pal callsys
    ]),
};

/// Linux hands over argc in r25 and argv in r24. The instruction behind a branch is executed first.
pub static HPPA: Program = Program {
    elf_flags: 0,
    code: Code::Words(&[
        0x0819_0243, // copy %r25,%r3              argc
        0x0f00_1099, // ldw 0(%r24),%r25           argv[0]
        0x341a_0002, // ldi 1,%r26
        0x3418_0020, // ldi 16,%r24
        0xe400_8200, // ble 0x100(%sr2,%r0)
        0x3414_0008, // ldi 4,%r20                 write
        0x347a_0050, // ldo 40(%r3),%r26
        0xe400_8200, // ble 0x100(%sr2,%r0)
        0x3414_0002, // ldi 1,%r20                 exit
    ]),
};

pub static M68K: Program = Program {
    elf_flags: 0,
    code: Code::Halves(&[
        0x2817, // move.l (%sp),%d4           argc
        0x242f, 0x0004, // move.l 4(%sp),%d2          argv[0]
        0x7201, // moveq #1,%d1
        0x7610, // moveq #16,%d3
        0x7004, // moveq #4,%d0               write
        0x4e40, // trap #0
        0x7228, // moveq #40,%d1
        0xd284, // add.l %d4,%d1
        0x7001, // moveq #1,%d0               exit
        0x4e40, // trap #0
    ]),
};

/// A trap number is 16 plus the number of arguments.
const SH4_CODE: Code = Code::Halves(&[
    0x68f2, // mov.l @r15,r8              argc
    0x55f1, // mov.l @(4,r15),r5          argv[0]
    0xe401, // mov #1,r4
    0xe610, // mov #16,r6
    0xe304, // mov #4,r3                  write
    0xc313, // trapa #19
    0x6483, // mov r8,r4
    0x7428, // add #40,r4
    0xe301, // mov #1,r3                  exit
    0xc311, // trapa #17
]);
pub static SH4: Program = Program { elf_flags: 0, code: SH4_CODE };
pub static SH4EB: Program = Program { elf_flags: 0, code: SH4_CODE };

/// asm-generic syscalls: write 64, exit 93.
pub static OR1K: Program = Program {
    elf_flags: 0,
    code: Code::Words(&[
        0x85c1_0000, // l.lwz r14,0(r1)            argc
        0x8481_0004, // l.lwz r4,4(r1)             argv[0]
        0x9c60_0001, // l.addi r3,r0,1
        0x9ca0_0010, // l.addi r5,r0,16
        0x9d60_0040, // l.addi r11,r0,64
        0x2000_0001, // l.sys 1
        0x9c6e_0028, // l.addi r3,r14,40
        0x9d60_005d, // l.addi r11,r0,93
        0x2000_0001, // l.sys 1
    ]),
};

/// e_flags: version 67. Each word is a packet of one instruction. asm-generic syscalls.
pub static HEXAGON: Program = Program {
    elf_flags: 0x67,
    code: Code::Words(&[
        0x919d_c010, // r16 = memw(r29+#0)         argc
        0x919d_c021, // r1 = memw(r29+#4)          argv[0]
        0x7800_c020, // r0 = #1
        0x7800_c202, // r2 = #16
        0x7800_c806, // r6 = #64
        0x5400_c004, // trap0(#1)
        0xb010_c500, // r0 = add(r16,#40)
        0x7800_cba6, // r6 = #93
        0x5400_c004, // trap0(#1)
    ]),
};

const MICROBLAZE_CODE: Code = Code::Words(&[
    0xea61_0000, // lwi r19,r1,0               argc
    0xe8c1_0004, // lwi r6,r1,4                argv[0]
    0x30a0_0001, // addik r5,r0,1
    0x30e0_0010, // addik r7,r0,16
    0x3180_0004, // addik r12,r0,4             write
    0xb9cc_0008, // brki r14,8
    0x30b3_0028, // addik r5,r19,40
    0x3180_0001, // addik r12,r0,1             exit
    0xb9cc_0008, // brki r14,8
]);
pub static MICROBLAZE: Program = Program { elf_flags: 0, code: MICROBLAZE_CODE };
pub static MICROBLAZEEL: Program = Program { elf_flags: 0, code: MICROBLAZE_CODE };

/// asm-generic syscalls: write 64, exit 93.
pub static NIOS2: Program = Program {
    elf_flags: 0,
    code: Code::Words(&[
        0xdc00_0017, // ldw r16,0(sp)              argc
        0xd940_0117, // ldw r5,4(sp)               argv[0]
        0x0100_0044, // addi r4,r0,1
        0x0180_0404, // addi r6,r0,16
        0x0080_1004, // addi r2,r0,64
        0x003b_683a, // trap 0
        0x8100_0a04, // addi r4,r16,40
        0x0080_1744, // addi r2,r0,93
        0x003b_683a, // trap 0
    ]),
};

pub static CRIS: Program = Program {
    elf_flags: 0,
    code: Code::Halves(&[
        0x0e6e, // move.d [$sp+],$r0          argc
        0xba6e, // move.d [$sp],$r11          argv[0]
        0xa241, // moveq 1,$r10
        0xc250, // moveq 16,$r12
        0x9244, // moveq 4,$r9                write
        0xe93d, // break 13
        0x0228, // addq 40,$r0
        0xa660, // move.d $r0,$r10
        0x9241, // moveq 1,$r9                exit
        0xe93d, // break 13
    ]),
};

/// Instructions of three bytes; no register window is entered.
pub static XTENSA: Program = Program {
    elf_flags: 0,
    code: Code::Bytes(&[
        0x52, 0x21, 0, // l32i a5,a1,0               argc
        0x32, 0x21, 1, // l32i a3,a1,4               argv[0]
        0x62, 0xa0, 1, // movi a6,1
        0x42, 0xa0, 16, // movi a4,16
        0x22, 0xa0, 13, // movi a2,13                 write
        0x00, 0x50, 0, // syscall
        0x62, 0xc5, 40, // addi a6,a5,40
        0x22, 0xa0, 118, // movi a2,118                exit
        0x00, 0x50, 0, // syscall
    ]),
};

/// The same with the four-bit fields of the first two bytes in the other order.
pub static XTENSAEB: Program = Program {
    elf_flags: 0,
    code: Code::Bytes(&[
        0x25, 0x12, 0, // l32i a5,a1,0
        0x23, 0x12, 1, // l32i a3,a1,4
        0x26, 0x0a, 1, // movi a6,1
        0x24, 0x0a, 16, // movi a4,16
        0x22, 0x0a, 13, // movi a2,13
        0x00, 0x05, 0, // syscall
        0x26, 0x5c, 40, // addi a6,a5,40
        0x22, 0x0a, 118, // movi a2,118
        0x00, 0x05, 0, // syscall
    ]),
};
