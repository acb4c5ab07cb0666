# Completion of roost for fish, made by `roost completion fish`.
function __roost_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] __complete fish -- $words[2..-1] "$current" 2>/dev/null)
    switch "$lines[1]"
        case ':files'
            # Of `--option=value` only the value is a path.
            set -l option (string match -r -- '^--[^=]+=' "$current")
            set -l paths (__fish_complete_path (string replace -r -- '^--[^=]+=' '' "$current"))
            for path in $paths
                printf '%s\n' "$option$path"
            end
        case ':directories'
            __fish_complete_directories "$current"
        case '*'
            printf '%s\n' $lines
    end
end
complete -c roost -f -a '(__roost_complete)'
