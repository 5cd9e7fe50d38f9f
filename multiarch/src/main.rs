fn main() -> std::process::ExitCode {
    multiarch::cli::main()
}
