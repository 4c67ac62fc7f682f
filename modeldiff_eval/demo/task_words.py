"""Hand-written material of the translation, format and constraint benchmarks."""

from __future__ import annotations


def _list(text: str, *, by: str | None = None) -> list[str]:
    """The words of a text, split at white space or at ``by``."""
    return [word.strip() for word in text.split(by)]


ENGLISH = _list(
    """
    house water book dog cat sun moon tree milk bread red green mother father school night king friend fish hand
    eye fire city flower
    """
)

# One word per English word, in the same order. No two words of one language are alike.
TRANSLATIONS = {
    "French": _list(
        """
        maison eau livre chien chat soleil lune arbre lait pain rouge vert mère père école nuit roi ami poisson
        main œil feu ville fleur
        """
    ),
    "Spanish": _list(
        """
        casa agua libro perro gato sol luna árbol leche pan rojo verde madre padre escuela noche rey amigo pez
        mano ojo fuego ciudad flor
        """
    ),
    "German": _list(
        """
        Haus Wasser Buch Hund Katze Sonne Mond Baum Milch Brot rot grün Mutter Vater Schule Nacht König Freund
        Fisch Hand Auge Feuer Stadt Blume
        """
    ),
    "Italian": _list(
        """
        casa acqua libro cane gatto sole luna albero latte pane rosso verde madre padre scuola notte re amico
        pesce mano occhio fuoco città fiore
        """
    ),
    "Portuguese": _list(
        """
        casa água livro cão gato sol lua árvore leite pão vermelho verde mãe pai escola noite rei amigo peixe mão
        olho fogo cidade flor
        """
    ),
    "Russian": _list(
        """
        дом вода книга собака кошка солнце луна дерево молоко хлеб красный зелёный мать отец школа ночь король
        друг рыба рука глаз огонь город цветок
        """
    ),
    "Chinese": _list(
        """
        房子 水 书 狗 猫 太阳 月亮 树 牛奶 面包 红色 绿色 母亲 父亲 学校 夜晚 国王 朋友 鱼 手 眼睛 火 城市 花
        """
    ),
    "Japanese": _list(
        """
        家 水 本 犬 猫 太陽 月 木 牛乳 パン 赤 緑 母 父 学校 夜 王 友達 魚 手 目 火 都市 花
        """
    ),
    "Korean": _list(
        """
        집 물 책 개 고양이 태양 달 나무 우유 빵 빨간색 초록색 어머니 아버지 학교 밤 왕 친구 물고기 손 눈 불 도시 꽃
        """
    ),
}

TOPICS = _list(
    "the sea, a dog, the sun, winter, a forest, bread, music, a garden, rain, a train, the moon, a library",
    by=",",
)
WORDS = _list("apple river window candle garden silver morning bridge pencil cloud orange stone")
CITIES = _list("Paris Rome Tokyo Cairo Lima Oslo Delhi Berlin Madrid Seoul")
LISTS = _list("colors fruits animals countries vegetables sports planets languages")

# Questions with a short answer that is well known.
QUESTIONS = (
    "What is the capital of France?",
    "What color is the sky on a clear day?",
    "What is the opposite of hot?",
    "Which animal barks?",
    "What do bees make?",
    "What is frozen water called?",
    "Which planet do we live on?",
    "What is the first month of the year?",
    "What do we call a young cat?",
    "Which meal do people eat in the morning?",
)

# Claims with their truth; both truths are equally common.
CLAIMS = (
    ("Is ice cold?", "Yes"),
    ("Is fire cold?", "No"),
    ("Is Paris a city?", "Yes"),
    ("Can a fish drive a car?", "No"),
    ("Do birds have wings?", "Yes"),
    ("Is a mouse bigger than a horse?", "No"),
    ("Is water wet?", "Yes"),
    ("Do stones breathe?", "No"),
)
NAMES = _list("Anna Tom Maria Ben Lea Paul Nina Sam")
OPENERS = _list("Today When Every Imagine Sometimes My Look")
AVOID = _list("beautiful nice big lovely good vast warm")
