# Completion of roost for bash, made by `roost completion bash`.
_roost() {
    local line
    local -a found=()
    COMPREPLY=()
    while IFS= read -r line; do
        found+=("$line")
    done < <("$1" __complete bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case "${found[0]-}" in
        :files) compopt -o default 2>/dev/null ;;
        :directories) compopt -o dirnames 2>/dev/null ;;
        *) COMPREPLY=("${found[@]}") ;;
    esac
}
complete -F _roost roost
