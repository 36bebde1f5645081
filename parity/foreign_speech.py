"""Sentences in other languages than English, spoken by eSpeak NG: what a multilingual model's parity is heard on.

The voice is a machine's, so nothing is said of how well a model hears it; only that two programs hear the same.
Needs the ``espeakng-loader`` package (eSpeak NG is GPL-3.0: used here, not shipped).
"""

from __future__ import annotations

import ctypes
import tempfile
import wave
from pathlib import Path

import numpy as np

from mlx_speech.audio import load_audio

SENTENCES = {
    "de": "Guten Morgen, meine Damen und Herren. Der Zug nach Hamburg fährt heute leider zwanzig Minuten später.",
    "fr": "Bonjour à tous. La bibliothèque est fermée le lundi, mais elle ouvre à neuf heures les autres jours.",
    "es": "Buenos días. Mañana por la tarde vamos a visitar el museo que está cerca de la plaza mayor.",
    "it": "Buongiorno a tutti. Domani mattina andiamo al mercato per comprare il pane, la frutta e il formaggio.",
    "ru": "Доброе утро. Сегодня очень хорошая погода, и мы пойдём гулять в парк вместе с детьми.",
    "nl": "Goedemorgen. De trein naar Amsterdam vertrekt vandaag vanaf het tweede perron, tien minuten later.",
}
_SYNCHRONOUS, _UTF8 = 2, 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def foreign_speech(speed: int = 140) -> dict[str, np.ndarray]:
    """Each sentence (T,) float32 at 16 kHz, by its language; ``speed`` in words a minute.

    Raises:
        RuntimeError: eSpeak NG does not start, or has no voice for a language.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    folder = str(Path(espeakng_loader.get_data_path()).parent)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, folder.encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"eSpeak NG does not start ({rate}): install espeakng-loader again")
    blocks: list[np.ndarray] = []

    def take(samples: ctypes._Pointer[ctypes.c_short], count: int, events: int) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(take)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetParameter(1, speed, 0)
    spoken = {}
    for language, text in SENTENCES.items():
        if library.espeak_SetVoiceByName(language.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {language!r}")
        blocks.clear()
        data = text.encode()
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        spoken[language] = _at_16_khz(np.concatenate(blocks), rate)
    return spoken


def _at_16_khz(samples: np.ndarray, rate: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spoken.wav"
        with wave.open(str(file), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(rate)
            stream.writeframes(samples.astype("<i2").tobytes())
        return load_audio(file)
