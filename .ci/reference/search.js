// Which entries hold every word of a query: first those of that name, then those whose name has it.
function found(entries, query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const rank = ({name, text}) => {
        if (words.every(word => name.toLowerCase() === word)) return 0;
        if (words.every(word => name.toLowerCase().startsWith(word))) return 1;
        if (words.every(word => name.toLowerCase().includes(word))) return 2;
        return words.every(word => text.toLowerCase().includes(word)) ? 3 : 4;
    };
    const ranked = entries.map(entry => [rank(entry), entry.name]).filter(([rank]) => rank < 4);
    return ranked.sort(([a], [b]) => a - b).map(([, name]) => name);
}

if (typeof document !== "undefined") {
    const main = document.querySelector("main");
    const everything = [...main.children];
    const sections = new Map([...main.querySelectorAll(".entry")].map(each => [each.id, each]));
    const entries = [...sections].map(([name, each]) => ({name, text: each.textContent}));
    const box = document.querySelector("#search");
    const show = () => {
        const query = box.value.trim();
        const names = found(entries, query);
        main.replaceChildren(...(query ? names.map(name => sections.get(name)) : everything));
        document.querySelector("#found").textContent = query ? `${names.length} found` : "";
        window.scrollTo(0, 0);
    };
    box.addEventListener("input", show);
    // A link leads to what a search may have hidden.
    document.querySelector("nav").addEventListener("click", event => {
        if (event.target.hash && box.value) {
            box.value = "";
            show();
        }
    });
}
