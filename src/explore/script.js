"use strict";
(() => {
    const element = (id) => document.getElementById(id);
    const facts = JSON.parse(element("facts").textContent);
    const pictures = facts.patched.length;

    /** Bytes that stand in the page in base64. */
    function bytes(id) {
        const raw = atob(element(id).textContent);
        const all = new Uint8Array(raw.length);
        for (let at = 0; at < raw.length; at++) all[at] = raw.charCodeAt(at);
        return all;
    }

    /** What `make` gives for a number, made once. */
    function once(make) {
        const made = new Map();
        return (number) => {
            if (!made.has(number)) made.set(number, make(number));
            return made.get(number);
        };
    }

    const components = once((model) => bytes("components-" + model));

    /** Tokens of an encoder and one over the length of each. */
    const tokens = once((model) => {
        const numbers = new Int8Array(bytes("tokens-" + model).buffer);
        const width = facts.models[model].width;
        const scales = new Float32Array(numbers.length / width);
        for (let token = 0; token < scales.length; token++) {
            let sum = 0;
            for (let at = token * width; at < (token + 1) * width; at++) sum += numbers[at] * numbers[at];
            scales[token] = 1 / Math.sqrt(Math.max(sum, 1));
        }
        return { numbers, scales, width };
    });

    /** Cosines of all patches of all images with one of them. */
    function cosines(model, chosen) {
        const { numbers, scales, width } = tokens(model);
        const own = numbers.subarray(chosen * width, (chosen + 1) * width);
        const found = new Float32Array(scales.length);
        for (let token = 0; token < found.length; token++) {
            let sum = 0;
            for (let at = 0, other = token * width; at < width; at++, other++) sum += own[at] * numbers[other];
            found[token] = sum * scales[token] * scales[chosen];
        }
        return found;
    }

    // Points of viridis (van der Walt and Smith, 2015), between which colours are mixed.
    const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
    function heat(level, into, at) {
        const place = Math.min(Math.max(level, 0), 1) * 4;
        const below = Math.min(Math.floor(place), 3);
        for (let channel = 0; channel < 3; channel++) {
            const [low, high] = [VIRIDIS[below][channel], VIRIDIS[below + 1][channel]];
            into[at + channel] = Math.round(low + (place - below) * (high - low));
        }
    }

    // ---- patches ----

    const frames = [...document.querySelectorAll(".frame")];
    const nameOf = (picture) => facts.images[facts.patched[picture]];
    // The middle of the chosen patch, in shares of the image: other encoders have other grids.
    let chosen = { picture: 0, x: 0.5, y: 0.5 };
    const value = (name) => document.querySelector(`input[name=${name}]:checked`).value;
    const shownModels = () => value("model") === "all" ? facts.models.map((_, model) => model) : [Number(value("model"))];

    /** The chosen patch in an encoder's grid. */
    function patchOf(model) {
        const { rows, columns } = facts.models[model];
        const place = (share, count) => Math.min(Math.floor(share * count), count - 1);
        return { row: place(chosen.y, rows), column: place(chosen.x, columns) };
    }

    /** The patch of each image that is most alike, the chosen one aside. */
    function closest(found, model, own) {
        const count = facts.models[model].rows * facts.models[model].columns;
        const best = [];
        for (let picture = 0; picture < pictures; picture++) {
            let at = -1;
            for (let token = picture * count; token < (picture + 1) * count; token++) {
                if (token !== own && (at < 0 || found[token] > found[at])) at = token;
            }
            best.push(at);
        }
        return best;
    }

    function placeMark(mark, model, token) {
        const { rows, columns } = facts.models[model];
        const patch = token % (rows * columns);
        mark.style.display = token < 0 ? "none" : "block";
        mark.style.left = (patch % columns) / columns * 100 + "%";
        mark.style.top = Math.floor(patch / columns) / rows * 100 + "%";
        mark.style.width = 100 / columns + "%";
        mark.style.height = 100 / rows + "%";
    }

    function paint(frame, count, colour) {
        const canvas = frame.querySelector("canvas");
        const picture = Number(frame.dataset.picture);
        const image = new ImageData(canvas.width, canvas.height);
        for (let patch = 0; patch < count; patch++) {
            colour(picture * count + patch, image.data, 4 * patch);
            image.data[4 * patch + 3] = 255;
        }
        canvas.getContext("2d").putImageData(image, 0, 0);
    }

    function showModel(model) {
        const { rows, columns, name } = facts.models[model];
        const count = rows * columns;
        const patch = patchOf(model);
        const own = chosen.picture * count + patch.row * columns + patch.column;
        const found = cosines(model, own);
        const low = found.reduce((low, one) => Math.min(low, one), 1);
        const best = closest(found, model, own);
        const isHeat = value("overlay") === "similarity";
        for (const frame of frames.filter((frame) => Number(frame.dataset.model) === model)) {
            const picture = Number(frame.dataset.picture);
            if (isHeat) {
                const range = Math.max(1 - low, 1e-9);
                paint(frame, count, (token, data, at) => heat((found[token] - low) / range, data, at));
            } else {
                const all = components(model);
                paint(frame, count, (token, data, at) => data.set(all.subarray(3 * token, 3 * token + 3), at));
            }
            placeMark(frame.querySelector(".chosen"), model, picture === chosen.picture ? own : -1);
            placeMark(frame.querySelector(".ring"), model, best[picture]);
        }
        return { low, ...words(found, best, model, name, patch, count) };
    }

    /** What was found, for people who read it. */
    function words(found, best, model, name, patch, count) {
        const { rows, columns } = facts.models[model];
        const others = best.filter((_, picture) => picture !== chosen.picture);
        const first = others.reduce((first, token) => first < 0 || found[token] > found[first] ? token : first, -1);
        let text = `${name}: row ${patch.row + 1} of ${rows}, column ${patch.column + 1} of ${columns}`;
        if (first >= 0) {
            const at = first % count;
            text += `; most alike elsewhere: ${nameOf(Math.floor(first / count))}, row ${Math.floor(at / columns) + 1}, ` +
                `column ${at % columns + 1} (${found[first].toFixed(2)})`;
        }
        return { text, best: best.map((token) => token < 0 ? "" : found[token].toFixed(2)) };
    }

    function show() {
        if (pictures === 0) return;
        const models = shownModels();
        document.body.classList.toggle("side-by-side", models.length > 1);
        for (const frame of frames) {
            frame.hidden = !models.includes(Number(frame.dataset.model));
        }
        const told = models.map(showModel);
        element("scale-low").textContent = told.map((one) => one.low.toFixed(2)).join(" / ");
        element("scale-line").hidden = value("overlay") !== "similarity";
        element("status").textContent = `${nameOf(chosen.picture)}. ` + told.map((one) => one.text).join(". ") + ".";
        for (let picture = 0; picture < pictures; picture++) {
            const best = element("picture-" + picture).querySelector(".best");
            best.textContent = "most alike: " + told.map((one) => one.best[picture]).join(" / ");
        }
    }

    let isDue = false;
    function showSoon() {
        if (isDue) return;
        isDue = true;
        requestAnimationFrame(() => { isDue = false; show(); });
    }

    function choose(frame, column, row) {
        const { rows, columns } = facts.models[frame.dataset.model];
        const within = (number, count) => (Math.min(Math.max(number, 0), count - 1) + 0.5) / count;
        chosen = { picture: Number(frame.dataset.picture), x: within(column, columns), y: within(row, rows) };
        showSoon();
    }

    const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    for (const frame of frames) {
        if (Number(frame.dataset.model) > 0) {
            const first = frame.parentElement.querySelector("img");
            frame.querySelector("img").src = first.src;
        }
        frame.querySelector(".square").addEventListener("click", (event) => {
            const { rows, columns } = facts.models[frame.dataset.model];
            const box = frame.querySelector("canvas").getBoundingClientRect();
            const share = (at, start, length) => (at - start) / length;
            choose(frame, Math.floor(share(event.clientX, box.left, box.width) * columns),
                Math.floor(share(event.clientY, box.top, box.height) * rows));
        });
        frame.addEventListener("keydown", (event) => {
            const step = ARROWS[event.key];
            if (!step && event.key !== "Enter" && event.key !== " ") return;
            event.preventDefault();
            if (chosen.picture !== Number(frame.dataset.picture)) {
                chosen = { picture: Number(frame.dataset.picture), x: 0.5, y: 0.5 };
            }
            const patch = patchOf(Number(frame.dataset.model));
            choose(frame, patch.column + (step ? step[0] : 0), patch.row + (step ? step[1] : 0));
        });
    }
    for (const input of document.querySelectorAll("input[type=radio]")) {
        input.addEventListener("change", () => { show(); draw(); });
    }
    element("strength").addEventListener("input", (event) => {
        document.body.style.setProperty("--strength", event.target.value / 100);
    });

    // ---- map ----

    const canvas = element("map-canvas");
    const context = canvas && canvas.getContext("2d");
    const colours = canvas && bytes("colours");
    const places = once((model) => new Uint16Array(bytes("places-" + model).buffer));
    const count = facts.images.length;
    const MOST_ZOOM = 2000;
    // What is in the middle, in the unit square, and how many times its side the square has on the screen.
    let view = { x: 0.5, y: 0.5, zoom: 1 };
    let atPointer = -1;
    let sheets = [];
    let pixels = null;

    function loadSheets() {
        const load = (number) => {
            const image = new Image();
            image.onload = drawSoon;
            image.src = element("sheet-" + number).textContent;
            return image;
        };
        sheets = Array.from({ length: facts.sheets }, (_, number) => load(number));
    }

    /** Pixels of the canvas that a side of the unit square has, and where its corner is. */
    function frameOf() {
        const side = 0.92 * Math.min(canvas.width, canvas.height) * view.zoom;
        return { side, left: canvas.width / 2 - view.x * side, top: canvas.height / 2 - view.y * side };
    }

    /** Side of a thumbnail on the canvas: larger as one comes closer. */
    function thumbnailSide() {
        const side = Math.min(24 * Math.sqrt(view.zoom), 96);
        return Math.round(side * devicePixelRatio);
    }

    function drawDots(at, { side, left, top }) {
        const [width, height] = [canvas.width, canvas.height];
        if (!pixels || pixels.width !== width || pixels.height !== height) pixels = new ImageData(width, height);
        const all = new Uint32Array(pixels.data.buffer);
        all.fill(0);
        const dot = Math.max(2, Math.round(2 * devicePixelRatio));
        for (let image = 0; image < count; image++) {
            const x = Math.round(at[2 * image] / 65535 * side + left);
            const y = Math.round(at[2 * image + 1] / 65535 * side + top);
            if (x < 0 || y < 0 || x + dot > width || y + dot > height) continue;
            const [red, green, blue] = [colours[3 * image], colours[3 * image + 1], colours[3 * image + 2]];
            const colour = (0xff000000 | blue << 16 | green << 8 | red) >>> 0;
            for (let row = 0; row < dot; row++) all.fill(colour, (y + row) * width + x, (y + row) * width + x + dot);
        }
        context.putImageData(pixels, 0, 0);
    }

    /** Draws the first image of each cell that has one, so that none hides another; gives how many. */
    function drawThumbnails(at, { side, left, top }) {
        const size = thumbnailSide();
        const columns = Math.ceil(canvas.width / size) + 1;
        const taken = new Uint8Array(columns * (Math.ceil(canvas.height / size) + 1));
        const { side: own, columns: inRow } = facts.thumbnail;
        let drawn = 0;
        for (let image = 0; image < count; image++) {
            const x = at[2 * image] / 65535 * side + left;
            const y = at[2 * image + 1] / 65535 * side + top;
            if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) continue;
            const cell = Math.floor(y / size) * columns + Math.floor(x / size);
            if (taken[cell]) continue;
            taken[cell] = 1;
            const sheet = sheets[Math.floor(image / (inRow * inRow))];
            if (!sheet || !sheet.complete) continue;
            const place = image % (inRow * inRow);
            context.drawImage(sheet, place % inRow * own, Math.floor(place / inRow) * own, own, own,
                x - size / 2, y - size / 2, size, size);
            drawn++;
        }
        return drawn;
    }

    const mapModel = () => value("model") === "all" ? 0 : Number(value("model"));

    function draw() {
        if (!canvas) return;
        const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * devicePixelRatio)));
        if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
        const at = places(mapModel());
        const frame = frameOf();
        drawDots(at, frame);
        canvas.dataset.drawn = drawThumbnails(at, frame);
        if (atPointer >= 0) {
            const size = thumbnailSide();
            context.lineWidth = 3 * devicePixelRatio;
            context.strokeStyle = getComputedStyle(document.body).getPropertyValue("--mark");
            context.strokeRect(at[2 * atPointer] / 65535 * frame.side + frame.left - size / 2,
                at[2 * atPointer + 1] / 65535 * frame.side + frame.top - size / 2, size, size);
        }
        Object.assign(canvas.dataset, { zoom: view.zoom.toFixed(3), x: view.x.toFixed(4), y: view.y.toFixed(4) });
    }

    let isDrawDue = false;
    function drawSoon() {
        if (isDrawDue) return;
        isDrawDue = true;
        requestAnimationFrame(() => { isDrawDue = false; draw(); });
    }

    /** Comes closer by a factor; the place under (x, y) of the canvas stays there. */
    function zoomBy(factor, x, y) {
        const before = frameOf();
        const fixed = [(x - before.left) / before.side, (y - before.top) / before.side];
        view.zoom = Math.min(Math.max(view.zoom * factor, 0.5), MOST_ZOOM);
        const after = frameOf();
        view.x = fixed[0] + (canvas.width / 2 - x) / after.side;
        view.y = fixed[1] + (canvas.height / 2 - y) / after.side;
        keepNear();
        drawSoon();
    }

    function moveBy(x, y) {
        const { side } = frameOf();
        view.x -= x / side;
        view.y -= y / side;
        keepNear();
        drawSoon();
    }

    /** The middle of the screen stays on the map, or all could be lost. */
    function keepNear() {
        for (const axis of ["x", "y"]) view[axis] = Math.min(Math.max(view[axis], 0), 1);
    }

    /** The image next to a place of the canvas, or -1. */
    function imageAt(x, y) {
        const at = places(mapModel());
        const { side, left, top } = frameOf();
        let [nearest, distance] = [-1, thumbnailSide() ** 2];
        for (let image = 0; image < count; image++) {
            const away = (at[2 * image] / 65535 * side + left - x) ** 2 + (at[2 * image + 1] / 65535 * side + top - y) ** 2;
            if (away < distance) [nearest, distance] = [image, away];
        }
        return nearest;
    }

    function pick(x, y) {
        atPointer = imageAt(x, y);
        element("map-status").textContent = atPointer < 0 ? "" : facts.images[atPointer];
        element("to-patches").hidden = !facts.patched.includes(atPointer);
        drawSoon();
    }

    function listenToMap() {
        const middle = () => [canvas.width / 2, canvas.height / 2];
        const pointOf = (event) => {
            const box = canvas.getBoundingClientRect();
            return [event.clientX - box.left, event.clientY - box.top].map((at) => at * devicePixelRatio);
        };
        const pointers = new Map();
        let moved = 0;
        canvas.addEventListener("pointerdown", (event) => {
            canvas.setPointerCapture(event.pointerId);
            pointers.set(event.pointerId, pointOf(event));
            if (pointers.size === 1) moved = 0;
        });
        canvas.addEventListener("pointermove", (event) => {
            const before = pointers.get(event.pointerId);
            if (!before) return;
            const now = pointOf(event);
            const other = [...pointers].find(([id]) => id !== event.pointerId);
            pointers.set(event.pointerId, now);
            moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
            if (!other) return moveBy(now[0] - before[0], now[1] - before[1]);
            const apart = (point) => Math.max(Math.hypot(point[0] - other[1][0], point[1] - other[1][1]), 1);
            zoomBy(apart(now) / apart(before), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
        });
        for (const kind of ["pointerup", "pointercancel"]) {
            canvas.addEventListener(kind, (event) => {
                const isTap = pointers.delete(event.pointerId) && kind === "pointerup" && moved < 6 * devicePixelRatio;
                if (isTap) pick(...pointOf(event));
            });
        }
        canvas.addEventListener("wheel", (event) => {
            event.preventDefault();
            const lines = event.deltaMode === 1 ? 16 : 1;
            zoomBy(Math.exp(-event.deltaY * lines * 0.002), ...pointOf(event));
        }, { passive: false });
        const all = () => { view = { x: 0.5, y: 0.5, zoom: 1 }; drawSoon(); };
        const keys = {
            "+": () => zoomBy(1.5, ...middle()), "=": () => zoomBy(1.5, ...middle()), "-": () => zoomBy(1 / 1.5, ...middle()), "0": all,
            Enter: () => pick(...middle()),
        };
        for (const [key, step] of Object.entries(ARROWS)) keys[key] = () => moveBy(-60 * step[0], -60 * step[1]);
        canvas.addEventListener("keydown", (event) => {
            if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
            event.preventDefault();
            keys[event.key]();
        });
        element("zoom-in").addEventListener("click", keys["+"]);
        element("zoom-out").addEventListener("click", keys["-"]);
        element("zoom-all").addEventListener("click", all);
        element("to-patches").addEventListener("click", () => {
            const picture = element("picture-" + facts.patched.indexOf(atPointer));
            const frame = picture.querySelector(".frame:not([hidden])");
            frame.focus();
            frame.scrollIntoView({ block: "center" });
        });
        new ResizeObserver(drawSoon).observe(canvas);
    }

    show();
    if (canvas) {
        loadSheets();
        listenToMap();
        draw();
    }
})();
