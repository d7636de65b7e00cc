"""Training texts of the tokenizers, and texts of the reference rows.

All texts are fixed, so that bundles are reproducible byte for byte.
"""

TRAINING_LINES = [
    "The river was high after the rain, and the old bridge would not carry the cart.",
    "What is in the picture? There are three small boats and one large ship near the shore.",
    "She counted the windows twice: once from the street, once from the garden.",
    "A question is answered in one line, unless the answer needs more than one line.",
    "The weather will be cold in the morning and warm in the afternoon, with some wind.",
    "Please describe the sound. It is a bell, or perhaps somebody knocks on the door.",
    "He wrote the number 1024 on the board, then 2048, then 4096, and then he stopped.",
    "The teacher asked the children what they had seen on their way to the school.",
    "Translate the sentence, then say in which language the sentence was written.",
    "Bread, butter, cheese and apples; tea for the guests, water for the others.",
    "The machine reads a table row by row and writes one answer for every row it reads.",
    "You are a helpful assistant. You answer in short sentences, and you do not guess.",
    "Der Fluss war nach dem Regen hoch, und die alte Brücke trug den Wagen nicht mehr.",
    "Die Lehrerin fragte die Kinder, was sie auf dem Weg zur Schule gesehen hatten.",
    "La rivière était haute après la pluie, et le vieux pont ne portait plus la charrette.",
    "¿Qué se ve en la imagen? Hay tres barcos pequeños y una nave grande en la costa.",
    "Сколько будет два и два? Четыре, если считать правильно.",
    "川の水は雨のあとで高くなり、古い橋は渡れなかった。",
    "def answer(row: dict) -> str:\n    return row['text'].strip().lower()",
]

_STORY = (
    "In the morning the two brothers went down to the river with a basket of bread and cheese. "
    "The younger one carried the basket, because the older one had to carry the boat. At the old "
    "bridge they met a man who counted the carts that passed, and wrote the numbers into a small "
    "book. How many have you counted, they asked him. He looked at his book for a long time and "
    "said that it was 4096, or perhaps 4095, since one of the carts had passed twice. "
)

# User texts of different length: one word, unicode, punctuation, whitespace, digits, code, long.
ROW_TEXTS = [
    "Hello",
    "What is in the picture?",
    "Übersetze: der Hund läuft schnell über die Brücke.",
    "日本語のテキスト and 🐱🚀 in one line",
    "  two  spaces before,\tone tab\nand a second line  ",
    "don't you'll we've I'd; 12345 + 6.78% = $1,000?",
    "def f(x):\n    return [y ** 2 for y in range(x)]",
    "Сколько будет два и два?",
    "The teacher asked the children what they had seen on their way to the school. " * 2,
    _STORY,
]

# For graphs with a short context, or where long texts would only cost time.
SHORT_TEXTS = ROW_TEXTS[:8]

SYSTEM_TEXTS = {1: "You are a helpful assistant.", 4: "Answer in one word — ever.", 8: "Be brief."}
