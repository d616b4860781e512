"""What is measured and shown around a sampling job: pages."""

from __future__ import annotations

import json
import re

from fewstep.sampling.page import page


def test_a_page_holds_all_frames_and_cannot_be_broken_by_text() -> None:
    frames = [[[3, 3, 3]], [[3, 1, 3]], [[0, 1, 2]]]
    text = page("a < b", ["</script>", "\n", "'\""], [1.0, 0.5, 0.0], frames, [[-1, 1, -1]], flowing=True)
    assert text.count("</script>") == 2
    assert "<h1>a &lt; b</h1>" in text
    found = re.search(r'id="data">(.*?)</script>', text)
    assert found
    data = json.loads(found[1])
    assert data["symbols"] == ["</script>", "\n", "'\""]
    assert (data["masks"], data["given"]) == (True, [[-1, 1, -1]])
    tokens = [data["first"]]
    for changes in data["changes"]:
        after = [list(row) for row in tokens[-1]]
        for sample, changed in enumerate(changes):
            for place, token in changed:
                after[sample][place] = token
        tokens.append(after)
    assert tokens == frames
