#compdef roost
# Completion of roost for zsh, made by `roost completion zsh`.
_roost() {
    local line value
    local -a lines described
    lines=("${(@f)$("${words[1]}" __complete zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    case "${lines[1]}" in
        :files) _files ;;
        :directories) _files -/ ;;
        *)
            for line in "${lines[@]}"; do
                [[ -n "$line" ]] || continue
                value="${line%%$'\t'*}"
                if [[ "$line" == *$'\t'* ]]; then
                    described+=("${value//:/\\:}:${line#*$'\t'}")
                else
                    described+=("${value//:/\\:}")
                fi
            done
            _describe 'roost' described
            ;;
    esac
}
if [[ "${funcstack[1]}" == _roost ]]; then
    _roost "$@"
else
    compdef _roost roost
fi
